"""What was shown and how it was liked, in SQL: SQLite by default, PostgreSQL by URL.

Rows carry pseudonyms, never user ids. An answer is stored when it is shown, with the probabilities of its sentences, so
that votes come with propensities that no client can invent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from promptailor.app.redact import redact
from promptailor.app.settings import Settings
from promptailor.graph.state import RankOutput
from promptailor.policies.types import StateInputs
from promptailor.prompts.assemble import clean_title
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import InputError, MissingExtraError
from promptailor.prompts.patterns import Catalogue, PatternName, PromptSpec

try:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import Connection, Engine, create_engine, delete, event, make_url, select, text
    from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, InterfaceError, NoSuchModuleError
    from sqlalchemy.orm import Session, selectinload, sessionmaker

    from promptailor.app.server.tables import AnswerRow, ConversationRow, FeedbackRow
except ImportError as error:
    raise MissingExtraError(f"the feedback store: ({error.name} is not installed)", "serve") from None

Vote = Literal["up", "down"]
_VOTES: dict[Vote, int] = {"up": 1, "down": -1}
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x70726F6D
"""Key of PostgreSQL's advisory lock: of several servers that start together, one upgrades the schema."""
_BUSY_S = 30
_alembic = threading.Lock()
"""Alembic keeps what it works on in globals."""
_MOST_HISTORY = 200
"""Items of a history that are kept, the most recent: no prompt shows more."""


class LoggedChoice(BaseModel):
    """One pattern's sentence at one step, and how probable it was."""

    model_config = ConfigDict(frozen=True)

    action: int
    sentence_id: str
    probability: float | None
    """None where the policy did not draw it."""


class ShownAnswer(BaseModel):
    """An answer as it was shown."""

    model_config = ConfigDict(frozen=True)

    answer_id: str
    user: str
    """Pseudonym."""
    policy: str
    version: str
    model: str
    catalogue_digest: str
    explored: bool
    prompt_digest: str
    spec: PromptSpec
    steps: tuple[dict[PatternName, LoggedChoice], ...]
    history: tuple[Item, ...]
    profile: tuple[str, ...]
    ranking: tuple[str, ...]

    @classmethod
    def of(
        cls,
        answer_id: str,
        user: str,
        output: RankOutput,
        *,
        catalogue: Catalogue,
        history: Sequence[Item],
        profile: Sequence[str],
        explored: bool,
    ) -> ShownAnswer:
        """Return what is kept of an answer.

        Args:
            answer_id: names it in feedback.
            user: pseudonym.
            output: the answer.
            catalogue: the sentences that it counts in.
            history: what the user had chosen before, oldest first.
            profile: names of the known fields of the user's profile.
            explored: whether the policy drew its sentences.
        """
        last = output.steps[-1]

        def action(pattern: PatternName) -> int | None:
            return last.choices[pattern].action if pattern in last.choices else None

        return cls(
            answer_id=answer_id,
            user=user,
            policy=output.policy,
            version=output.version,
            model=redact(output.model)[:512],
            catalogue_digest=catalogue.digest,
            explored=explored,
            prompt_digest=last.prompt_digest,
            spec=PromptSpec(
                role_playing=action("role_playing"),
                history_length=last.history_length,
                reasoning_guidance=action("reasoning_guidance"),
                output_format=action("output_format"),
                user_profile=action("user_profile") or 0,
            ),
            steps=tuple(
                {
                    pattern: LoggedChoice(
                        action=choice.action, sentence_id=choice.sentence_id, probability=choice.probability
                    )
                    for pattern, choice in step.choices.items()
                }
                for step in output.steps
            ),
            history=tuple(_bounded(item) for item in history[-_MOST_HISTORY:]),
            profile=tuple(profile),
            ranking=tuple(item.item_id for item in output.items),
        )

    @property
    def propensity(self) -> float | None:
        """Probability with which the last prompt was chosen, given those before; None where nothing was drawn."""
        product = 1.0
        chances = [choice.probability for choice in self.steps[-1].values()]
        drawn = [chance for chance in chances if chance is not None]
        for chance in drawn:
            product *= chance
        return product if drawn and self.explored else None

    @property
    def inputs(self) -> StateInputs:
        """What the policy knew of the user before its first prompt."""
        return StateInputs(history=self.history, step=0, history_length=1, profile=self.profile)


class VotedAnswer(ShownAnswer):
    """An answer with its votes: a line of `promptailor feedback export`."""

    votes: dict[str, int]
    """1 or -1 by item id; empty where nobody voted."""

    @property
    def reward(self) -> float | None:
        """Share of the votes that are up; None where there are none."""
        if not self.votes:
            return None
        return sum(vote > 0 for vote in self.votes.values()) / len(self.votes)


class FeedbackStore:
    """Answers, votes and conversations; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Open a database and bring its schema up to date.

        Raises:
            InputError: the URL names no database that can be reached, or the driver is missing.
        """
        self._engine = _connect(url)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)
        try:
            with self._engine.begin() as connection:
                _upgrade(connection)
        except (DatabaseError, InterfaceError) as error:
            reason = redact(" ".join(str(error.orig).split()))
            raise InputError(f"PROMPTAILOR_DATABASE: {reason}; is the server running, and the URL right?") from None

    def add_answer(self, answer: ShownAnswer) -> None:
        """Keep an answer that is about to be shown."""
        with self._sessions.begin() as session:
            session.add(AnswerRow(**answer.model_dump(mode="json")))

    def vote(self, answer_id: str, item_id: str, vote: Vote | None) -> None:
        """Keep a vote on an item in place of an earlier one, or take it back.

        Raises:
            InputError: there is no such answer, or the item is not in it.
        """

        def write(session: Session) -> None:
            answer = session.get(AnswerRow, answer_id)
            if answer is None:
                raise InputError("answer_id: there is no such answer, or its user was forgotten")
            if item_id not in answer.ranking:
                raise InputError("item_id: is not in this answer; give the id of one of its items")
            if vote is None:
                session.execute(delete(FeedbackRow).filter_by(answer_id=answer_id, item_id=item_id))
            else:
                session.merge(FeedbackRow(answer_id=answer_id, item_id=item_id, vote=_VOTES[vote]))

        self._insert(write)

    def add_conversation(self, thread_id: str, user: str) -> None:
        """Note whose thread this is; a known one is left as it is."""

        def write(session: Session) -> None:
            if session.get(ConversationRow, thread_id) is None:
                session.add(ConversationRow(thread_id=thread_id, user=user))

        self._insert(write)

    def _insert(self, write: Callable[[Session], None]) -> None:
        """Write in a transaction; where another client wrote the same row in the meantime, once more."""
        try:
            with self._sessions.begin() as session:
                write(session)
        except IntegrityError:
            with self._sessions.begin() as session:
                write(session)

    def threads(self, user: str) -> list[str]:
        """Return a user's threads."""
        with self._sessions() as session:
            return list(session.scalars(select(ConversationRow.thread_id).filter_by(user=user)))

    def delete_user(self, user: str) -> int:
        """Delete everything that is kept of a user; return how many answers that were."""
        with self._sessions.begin() as session:
            answers = select(AnswerRow.answer_id).filter_by(user=user)
            n_answers = len(session.scalars(answers).all())
            session.execute(delete(FeedbackRow).where(FeedbackRow.answer_id.in_(answers)))
            session.execute(delete(AnswerRow).filter_by(user=user))
            session.execute(delete(ConversationRow).filter_by(user=user))
        return n_answers

    def read(self) -> Iterator[VotedAnswer]:
        """Yield every answer, oldest first, with its votes."""
        query = select(AnswerRow).options(selectinload(AnswerRow.votes)).order_by(AnswerRow.created_at)
        with self._sessions() as session:
            for row in session.scalars(query.execution_options(yield_per=500)):
                fields: dict[str, Any] = {name: getattr(row, name) for name in ShownAnswer.model_fields}
                yield VotedAnswer.model_validate(fields | {"votes": {v.item_id: v.vote for v in row.votes}})

    def check(self) -> None:
        """Raise where the database does not answer."""
        with self._engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_store(settings: Settings) -> FeedbackStore:
    """Open the configured store: the settings' database, or a file of the home folder."""
    if settings.database:
        return FeedbackStore(settings.database.get_secret_value())
    settings.home.mkdir(parents=True, exist_ok=True)
    return FeedbackStore(f"sqlite:///{settings.home / 'feedback.sqlite'}")


@contextmanager
def open_feedback(settings: Settings) -> Iterator[FeedbackStore]:
    """Open the configured store for the length of a block."""
    store = open_store(settings)
    try:
        yield store
    finally:
        store.close()


def _bounded(item: Item) -> Item:
    return Item(item_id=item.item_id, title=clean_title(item.title) or item.item_id, categories=())


def _connect(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):  # psycopg 3 is what the extra installs
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError):
        raise InputError(
            "PROMPTAILOR_DATABASE: is no database URL; write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    except ModuleNotFoundError:
        raise MissingExtraError("PROMPTAILOR_DATABASE: a PostgreSQL database", "postgres") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_BUSY_S * 1000}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _upgrade(connection: Connection) -> None:
    """Bring the schema up to date; of several servers or threads that start together, one after the other."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, "head")
