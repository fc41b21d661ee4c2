"""A turn of the chat graph as server-sent events: what was understood, which candidates, each prompt, the answer."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import BaseModel, Field

from promptailor.app.retrieval import CatalogueRetriever
from promptailor.graph.chat.build import ChatGraph
from promptailor.graph.chat.retriever import Facts
from promptailor.graph.chat.state import Understood, Wishes
from promptailor.graph.context import Context
from promptailor.graph.explain import explain_steps
from promptailor.graph.state import RankInput, RankOutput, StepRecord, StepView
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.patterns import Catalogue

RANK_NODE = "rank"
"""The chat graph's node that embeds the rank graph."""
_WARM_UP = "warm-up"
"""User id of a turn that nobody sees."""


class Started(BaseModel):
    """The conversation that the turn belongs to."""

    event: Literal["conversation"] = "conversation"
    conversation: str


class Understanding(BaseModel):
    """What was read in the message."""

    event: Literal["understanding"] = "understanding"
    act: str
    wanted: list[str]
    avoided: list[str]
    lessened: list[str]
    years: list[int | None] | None
    like: list[str] = Field(description="Titles that candidates shall resemble.")
    source: str


class Candidate(BaseModel):
    """An item that is going to be ranked."""

    item_id: str
    title: str
    year: int | None
    categories: list[str]


class Candidates(BaseModel):
    """What is going to be ranked, and by how long a history."""

    event: Literal["candidates"] = "candidates"
    candidates: list[Candidate]
    n_history: int


class Step(BaseModel):
    """One step of the prompt: its make-up, its text, and the ranking that came of it."""

    event: Literal["step"] = "step"
    n_steps: int
    view: StepView
    system: str
    user: str


class AnswerItem(BaseModel):
    """One place of the final ranking."""

    item_id: str
    title: str
    rank: int
    reason: str | None
    agreement: float | None = Field(
        description="How far the steps' prompts agree on the place: 1 all of them, 0 not at all; null for one step."
    )
    year: int | None
    categories: list[str]


class FinalRanking(BaseModel):
    """The answer's list."""

    event: Literal["ranking"] = "ranking"
    answer_id: str
    policy: str
    version: str
    model: str
    fallback: str | None
    llm_calls: int
    items: list[AnswerItem]


class Said(BaseModel):
    """The reply in words."""

    event: Literal["message"] = "message"
    text: str


Event = Started | Understanding | Candidates | Step | FinalRanking | Said
Log = Callable[[RankInput, RankOutput], Awaitable[str]]
"""Keeps an answer and returns its id."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The chat graph over one catalogue."""

    graph: ChatGraph
    catalogue: Catalogue
    retriever: CatalogueRetriever
    saver: BaseCheckpointSaver[str]

    async def turn(
        self, message: str, *, user_id: str, taste: str | None, config: RunnableConfig, context: Context, log: Log
    ) -> AsyncIterator[Event]:
        """Run one turn of a thread and yield what happens.

        Args:
            message: what the user says.
            user_id: who that is.
            taste: how she describes herself; None where she did not, or did earlier.
            config: names the thread.
            context: the settings of the ranking.
            log: told of the answer before it is shown.

        Raises:
            PromptailorError: the turn cannot be served.
        """
        told = _Told(catalogue=self.catalogue, retriever=self.retriever)
        graph_input: dict[str, Any] = {"messages": [HumanMessage(message)], "user_id": user_id}
        if taste:
            graph_input["taste"] = taste
        stream = self.graph.astream(
            graph_input,
            config,
            context=context,
            stream_mode="tasks",  # `updates` would leave out what the rank graph does not return
            subgraphs=True,
            durability="exit",
        )
        async for part in stream:
            namespace, task = cast("tuple[tuple[str, ...], dict[str, Any]]", part)
            node, update = str(task["name"]), dict(task.get("result") or ())
            if not update:
                continue
            if not namespace:
                for event in told.of_turn(node, update):
                    yield event
            elif namespace[0].startswith(f"{RANK_NODE}:") and (step := told.of_ranking(node, update)):
                yield step
        if told.output and told.request:
            answer_id = await log(RankInput.of(told.request), told.output)
            yield told.ranking(answer_id)
        yield Said(text=told.text)

    async def warm_up(self, context: Context) -> None:
        """Run a turn that nobody sees, so that the first visitor does not wait for what is loaded on first use."""

        async def keep_nothing(*_: object) -> str:
            return ""

        thread_id = new_conversation()
        config = RunnableConfig(configurable={"thread_id": thread_id})
        title = self.retriever.popular(1)[0].title
        turn = self.turn(title, user_id=_WARM_UP, taste=None, config=config, context=context, log=keep_nothing)
        async for _ in turn:
            pass
        await self.forget([thread_id])

    async def forget(self, thread_ids: Sequence[str]) -> None:
        """Delete conversations."""
        for thread_id in thread_ids:
            await self.saver.adelete_thread(thread_id)


def new_conversation() -> str:
    """Return the id of a new conversation."""
    return secrets.token_hex(16)


@dataclass(kw_only=True)
class _Told:
    """What the graph has told of a turn so far."""

    catalogue: Catalogue
    retriever: CatalogueRetriever
    request: RankRequest | None = None
    trace: list[StepRecord] = field(default_factory=list)
    n_steps: int = 1
    facts: dict[str, Facts] = field(default_factory=dict)
    output: RankOutput | None = None
    text: str = ""

    def of_turn(self, node: str, update: dict[str, Any]) -> list[Event]:
        """Read an update of the chat graph."""
        match node:
            case "understand":
                return [self._understanding(update)]
            case "retrieve":
                facts = [Facts.model_validate(one) for one in update["candidates"]]
                self.facts = {fact.item.item_id: fact for fact in facts}
                candidates = [Candidate(title=f.item.title, **self._known(f.item.item_id)) for f in facts]
                return [Candidates(candidates=candidates, n_history=len(update["history"]))] if facts else []
            case "reply":
                last: BaseMessage = update["messages"][-1]
                self.text = str(last.text)
                if self.trace and update.get("ranking"):
                    self.output = RankOutput.model_validate(update["ranking"])
        return []

    def of_ranking(self, node: str, update: dict[str, Any]) -> Step | None:
        """Read an update of the rank graph within."""
        if node == "receive":
            self.request = update["request"]
        elif node == "select_policy":
            self.n_steps = update["n_steps"]
        elif node == "parse":
            return self._step(update.get("trace", ()))
        return None

    def ranking(self, answer_id: str) -> FinalRanking:
        """Return the final list."""
        assert self.output is not None, "asked for where there is one"
        output = self.output
        agreement = agreements([step.ranking for step in output.steps], [item.item_id for item in output.items])
        return FinalRanking(
            answer_id=answer_id,
            policy=output.policy,
            version=output.version,
            model=output.model,
            fallback=output.fallback,
            llm_calls=output.llm_calls,
            items=[
                AnswerItem(
                    title=item.title,
                    rank=item.rank,
                    reason=item.reason,
                    agreement=agreement.get(item.item_id),
                    **self._known(item.item_id),
                )
                for item in output.items
            ],
        )

    def _understanding(self, update: dict[str, Any]) -> Understanding:
        read, wishes = Understood.model_validate(update["understood"]), Wishes.model_validate(update["wishes"])
        anchors: list[Item | None] = [self.retriever.item(item_id) for item_id in wishes.anchors]
        return Understanding(
            act=read.act,
            wanted=list(wishes.wanted),
            avoided=list(wishes.avoided),
            lessened=list(wishes.lessened),
            years=list(wishes.years) if wishes.years else None,
            like=[item.title for item in anchors if item],
            source=read.source,
        )

    def _step(self, records: Sequence[StepRecord]) -> Step | None:
        if not records or self.request is None:
            return None
        self.trace += records
        prompt = self.trace[-1].prompt
        return Step(
            n_steps=self.n_steps,
            view=explain_steps(self.trace, self.catalogue, self.request.domain)[-1],
            system=prompt.system,
            user=prompt.user,
        )

    def _known(self, item_id: str) -> dict[str, Any]:
        fact = self.facts.get(item_id)
        return {
            "item_id": item_id,
            "year": fact.year if fact else None,
            "categories": list(fact.item.categories) if fact else [],
        }


def agreements(rankings: Sequence[Sequence[str]], final: Sequence[str]) -> dict[str, float]:
    """Return how far the steps' rankings agree on each item's final place; nothing where there is one step only.

    1 less the mean distance between its places and the final one, as a share of the longest possible distance.
    """
    if len(rankings) < 2 or len(final) < 2:
        return {}
    places = [{item_id: place for place, item_id in enumerate(ranking)} for ranking in rankings]
    return {
        item_id: 1.0 - sum(abs(place[item_id] - rank) for place in places) / len(places) / (len(final) - 1)
        for rank, item_id in enumerate(final)
    }
