"""The store on SQLite, and on PostgreSQL where there is one: the schema, votes from many threads, forgetting."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `serve` is not installed")

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from promptailor.app.server.feedback_store import FeedbackStore, LoggedChoice, ShownAnswer, Vote
from promptailor.app.server.tables import Base
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import PromptSpec


def answer(answer_id: str, user: str = "user-1", **fields: object) -> ShownAnswer:
    return ShownAnswer(
        answer_id=answer_id,
        user=user,
        policy="rpp",
        version="v",
        model="planted:1",
        catalogue_digest="c",
        explored=True,
        prompt_digest="p",
        spec=PromptSpec(role_playing=1, history_length=3, reasoning_guidance=None, output_format=2),
        steps=(
            {"role_playing": LoggedChoice(action=0, sentence_id="a", probability=0.9)},
            {
                "role_playing": LoggedChoice(action=1, sentence_id="b", probability=0.5),
                "history_records": LoggedChoice(action=2, sentence_id="+2", probability=0.25),
                "output_format": LoggedChoice(action=2, sentence_id="f", probability=None),
            },
        ),
        history=(Item(item_id="1", title='Ein "Titel" mit ü, 🎬 und <script>'),),
        profile=("age",),
        ranking=("3", "2"),
    ).model_copy(update=fields)


def test_what_goes_in_comes_out_in_order(url: str) -> None:
    store = FeedbackStore(url)
    stored = [answer("a"), answer("b", user="user-2"), answer("c", explored=False)]
    for one in stored:
        store.add_answer(one)
    store.vote("a", "3", "down")
    store.vote("a", "3", "up")
    store.vote("a", "2", "down")
    rows = list(store.read())
    assert [ShownAnswer.model_validate(row.model_dump(exclude={"votes"})) for row in rows] == stored
    assert [row.votes for row in rows] == [{"3": 1, "2": -1}, {}, {}]
    assert [row.reward for row in rows] == [0.5, None, None]
    assert [row.propensity for row in rows] == [0.125, 0.125, None]
    store.check()
    store.close()


def test_a_database_is_brought_up_to_date_once_and_kept(url: str) -> None:
    with ThreadPoolExecutor(3) as pool:  # servers that start together
        stores = list(pool.map(FeedbackStore, [url] * 3))
    stores[0].add_answer(answer("a"))
    assert [row.answer_id for row in FeedbackStore(url).read()] == ["a"]
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
    for store in stores:
        store.close()


def test_votes_from_many_threads_all_count(url: str) -> None:
    store = FeedbackStore(url)
    for n in range(10):
        store.add_answer(answer(f"a{n}"))
    votes: list[Vote] = ["up", "down"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.vote(f"a{n % 10}", "3", votes[n % 2]), range(40)))
        list(pool.map(lambda n: store.add_conversation("one thread", "user-1"), range(16)))
    assert [set(row.votes) for row in store.read()] == [{"3"}] * 10
    assert store.threads("user-1") == ["one thread"]
    store.close()


def test_a_user_is_forgotten_and_nobody_else(url: str) -> None:
    store = FeedbackStore(url)
    for n, user in enumerate(["user-1", "user-2", "user-1"]):
        store.add_answer(answer(f"a{n}", user=user))
        store.vote(f"a{n}", "3", "up")
        store.add_conversation(f"t{n}", user)
    assert store.threads("user-1") == ["t0", "t2"]
    assert store.delete_user("user-1") == 2
    assert store.delete_user("user-1") == 0
    [left] = store.read()
    assert (left.answer_id, left.votes) == ("a1", {"3": 1})
    assert (store.threads("user-1"), store.threads("user-2")) == ([], ["t1"])
    with pytest.raises(InputError, match="answer_id: there is no such answer"):
        store.vote("a0", "3", "up")
    with pytest.raises(InputError, match="item_id: is not in this answer"):
        store.vote("a1", "9", "up")
    store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "is no database URL"),
        ("nosuch://host/name", "is no database URL"),
        ("postgresql://user:hunter22@127.0.0.1:1/name", "is the server running"),
        ("sqlite:////no/such/folder/file.sqlite", "unable to open"),
    ],
)
def test_a_database_that_is_not_there_is_one_line_without_the_password(url: str, message: str) -> None:
    with pytest.raises(InputError, match=f"PROMPTAILOR_DATABASE: .*{message}") as caught:
        FeedbackStore(url)
    assert "hunter22" not in str(caught.value)
    assert "\n" not in str(caught.value)
