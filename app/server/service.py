"""What the routes call: requests become answers, answers are logged, users are forgotten."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from langchain_core.runnables import RunnableConfig

from promptailor.app.pseudonym import pseudonym
from promptailor.app.server.conversation import Chat, Event, Started, new_conversation
from promptailor.app.server.feedback_store import FeedbackStore, ShownAnswer, Vote
from promptailor.app.server.metrics import Metrics
from promptailor.app.server.schemas import ChatBody, ExampleUser, Forgotten, Start
from promptailor.app.settings import Settings
from promptailor.app.tracing import log_feedback, run_config
from promptailor.evals.datasets import Dataset
from promptailor.graph.attribution import Attribution, aattribute
from promptailor.graph.build import RankGraph, recursion_limit
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import InputError

MAX_STEPS = 50
REMEMBERED = 500
"""Recent answers that can be explained; their requests are kept in memory."""
_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class Served:
    """A request as it was served, so that it can be served again."""

    request: RankInput
    context: Context
    run_id: UUID | None = None
    """Of its trace."""


@dataclass(kw_only=True)
class Service:
    """A rank graph with its policy, the log of what it answered, and who may be tried as an example."""

    settings: Settings
    resources: Resources
    graph: RankGraph
    context: Context
    """Of every request; where the policy explores, each request has a seed of its own."""
    feedback: FeedbackStore
    metrics: Metrics
    start: Start
    """What the page begins with."""
    chat: Chat | None = None
    """None where there is no catalogue to chat about."""
    _served: OrderedDict[str, Served] = field(default_factory=OrderedDict)

    async def rank(self, request: RankInput) -> tuple[str, RankOutput]:
        """Rank the candidates of a request; return the answer's id with the answer.

        Raises:
            PromptailorError: the request cannot be served.
        """
        context = self.request_context()
        config = self._run_config("rank", request.user_id)
        config["recursion_limit"] = recursion_limit(context.n_steps or MAX_STEPS, len(request.candidates))
        result = await self.graph.ainvoke(request, config, context=context)
        output = RankOutput.model_validate(result)
        return await self.log(Served(request, context, config["run_id"]), output), output

    def request_context(self) -> Context:
        """Return the settings of the next request: draws of a policy that explores differ from visit to visit."""
        if not self.context.explore:
            return self.context
        return self.context.model_copy(update={"seed": secrets.randbelow(_SEEDS)})

    def _run_config(self, task: str, user_id: str | int, thread_id: str | None = None) -> RunnableConfig:
        return run_config(self.context.policy, user_id=user_id, thread_id=thread_id, task=task, settings=self.settings)

    async def log(self, served: Served, output: RankOutput) -> str:
        """Keep an answer that is about to be shown; return its id."""
        answer_id, request = secrets.token_hex(16), served.request
        self.metrics.answered(output)
        profile = request.user_profile.known if request.user_profile else ()
        answer = ShownAnswer.of(
            answer_id,
            self.pseudonym(request.user_id),
            output,
            catalogue=self.resources.catalogue,
            history=self._items(request.history),
            profile=profile,
            explored=served.context.explore,
        )
        await asyncio.to_thread(self.feedback.add_answer, answer)
        self._served[answer_id] = served
        while len(self._served) > REMEMBERED:
            self._served.popitem(last=False)
        return answer_id

    async def talk(self, body: ChatBody) -> AsyncIterator[Event]:
        """Run one turn of a conversation and yield what happens.

        Raises:
            PromptailorError: there is no catalogue to chat about, or the turn cannot be served.
        """
        if self.chat is None:
            raise InputError("message: this server has no catalogue to chat about; start it with --dataset")
        user, conversation = self.pseudonym(body.user_id), body.conversation or new_conversation()
        thread_id = f"{user}.{conversation}"
        await asyncio.to_thread(self.feedback.add_conversation, thread_id, user)
        yield Started(conversation=conversation)
        context, config = self.request_context(), self._run_config("chat", body.user_id, thread_id)

        async def log(request: RankInput, output: RankOutput) -> str:
            return await self.log(Served(request, context, config["run_id"]), output)

        turn = self.chat.turn(
            body.message, user_id=body.user_id, taste=body.taste, config=config, context=context, log=log
        )
        async for event in turn:
            yield event

    async def explain(self, answer_id: str | None, request: RankInput | None) -> Attribution:
        """Say what each part of an answer's prompt did; of an answer that was given, or of a request.

        Raises:
            InputError: the answer is not known, or not any more.
        """
        if request is not None:
            served = Served(request, self.request_context())
        elif answer_id is not None and (known := self._served.get(answer_id)):
            served = known
        else:
            raise InputError("answer_id: there is no such recent answer; ask again, and have the new one explained")
        config = self._run_config("explain", served.request.user_id)
        return await aattribute(self.resources, served.request, served.context, config=config)

    async def vote(self, answer_id: str, item_id: str, vote: Vote | None) -> None:
        """Keep a vote; raise `InputError` where the item was not in the answer."""
        await asyncio.to_thread(self.feedback.vote, answer_id, item_id, vote)
        self.metrics.voted(vote or "withdrawn")
        served = self._served.get(answer_id)
        if vote and served and served.run_id:
            log_feedback(served.run_id, "thumbs", float(vote == "up"))

    async def forget(self, user_id: str) -> Forgotten:
        """Delete the answers, votes, recent requests and conversations of a user."""
        for answer_id in [a for a, served in self._served.items() if str(served.request.user_id) == user_id]:
            self._served.pop(answer_id, None)
        user = self.pseudonym(user_id)
        threads = await asyncio.to_thread(self.feedback.threads, user)
        if self.chat is not None:
            await self.chat.forget(threads)
        answers = await asyncio.to_thread(self.feedback.delete_user, user)
        return Forgotten(answers=answers, conversations=len(threads))

    def pseudonym(self, user_id: str | int) -> str:
        """Return what stands for a user in the log."""
        return pseudonym(user_id, self.settings)

    def _items(self, references: Sequence[Item | str]) -> list[Item]:
        return [self.resources.item(reference, "history") for reference in references]


def example_users(dataset: Dataset, users: Sequence[str], *, n: int, n_recent: int = 5) -> tuple[ExampleUser, ...]:
    """Describe a few users by what is known of them, without the choices that evaluation holds out."""
    sequences = dataset.training_sequences()
    return tuple(
        ExampleUser(
            user_id=user_id,
            name=_name(dataset, user_id),
            recent=[dataset.items[item_id].title for item_id in reversed(sequences[user_id][-n_recent:])],
            n_history=len(sequences[user_id]),
        )
        for user_id in users[:n]
        if sequences[user_id]
    )


def _name(dataset: Dataset, user_id: str) -> str:
    profile = dataset.profiles.get(user_id)
    known = [value for value in (profile.occupation, profile.age) if value] if profile else []
    if not known:
        return f"User {user_id}"
    words = ", ".join(known)
    return words[:1].upper() + words[1:]
