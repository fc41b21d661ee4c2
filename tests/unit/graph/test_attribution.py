"""Why this: one part of the served prompt is another, everything else stays, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.evals.types import EvalCase
from promptailor.graph.attribution import Attribution, aattribute, attribute
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput
from promptailor.policies.base import Decision, OneShotPolicy, PolicyInfo
from promptailor.policies.best_of_k import BestOfK, BestOfKConfig
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.types import StateInputs
from promptailor.prompts.errors import ModelCallError
from promptailor.prompts.explanations import load_wording
from promptailor.prompts.llm import ChatPort, Completion, ModelCall
from promptailor.prompts.patterns import Catalogue

RPP = Context(policy="rpp")
SENTENCES = ("role_playing", "reasoning_guidance", "output_format")


@dataclass
class Spy:
    """A port that keeps the calls that go through it; fails where it is told to."""

    port: ChatPort
    calls: list[ModelCall] = field(default_factory=list)
    fails_on: str = "\0"

    @property
    def spec(self) -> str:
        return self.port.spec

    @property
    def max_candidates(self) -> int | None:
        return self.port.max_candidates

    def complete(self, call: ModelCall) -> Completion:
        self.calls.append(call)
        if any(self.fails_on in message.content for message in call.messages):
            raise ModelCallError("the model is down")
        return self.port.complete(call)

    async def acomplete(self, call: ModelCall) -> Completion:
        return self.complete(call)


@dataclass(frozen=True)
class Fixed:
    """A one-shot policy that always decides the same."""

    decision: Decision
    info: PolicyInfo = field(default_factory=lambda: PolicyInfo(name="fixed", version="1"))

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        return self.decision


def spied(resources: Resources) -> tuple[Resources, Spy]:
    spy = Spy(resources.recommender)
    return dataclasses.replace(resources, recommender=spy), spy


def text_of(call: ModelCall) -> str:
    return "\n".join(message.content for message in call.messages)


def served(resources: Resources, request: RankInput, context: Context) -> RankOutput:
    return RankOutput.model_validate(build_rank_graph(resources).invoke(request, context=context))


def check(attribution: Attribution, answer: RankOutput) -> None:
    """What holds of every attribution."""
    assert [item.item_id for item in attribution.items] == [item.item_id for item in answer.items]
    assert attribution.prompt_digest == answer.steps[-1].prompt_digest
    for effect in attribution.effects:
        assert [move.item_id for move in effect.moves] == [item.item_id for item in answer.items]
        assert sorted(m.rank_without for m in effect.moves) == sorted(m.rank for m in effect.moves)
        assert sum(move.moved for move in effect.moves) == 0
    for place, item in enumerate(attribution.items):
        moved = [effect.moves[place] for effect in attribution.effects if effect.moves[place].moved]
        assert sorted(item.reasons) == sorted(move.text for move in moved)
    assert Attribution.model_validate_json(attribution.model_dump_json()) == attribution


def test_each_counterfactual_differs_in_its_own_part_alone(resources: Resources, cases: Sequence[EvalCase]) -> None:
    request = RankInput.of(cases[0].request)
    answer = served(resources, request, RPP)
    resources, spy = spied(resources)
    attribution = attribute(resources, request, RPP)
    check(attribution, answer)
    last, counterfactuals = spy.calls[2], spy.calls[3:]
    assert {c.labels for c in counterfactuals} == {last.labels}
    assert {(c.sample_index, c.split) for c in counterfactuals} == {(2, "serve")}
    shown = {name: answer.steps[-1].choices[name].sentence for name in SENTENCES}
    effects = {effect.part: effect for effect in attribution.effects}
    assert set(effects) == {*SENTENCES, "history_records", "prompt"}
    for part in SENTENCES:
        texts = [text_of(call).replace(effects[part].reference.text, shown[part]) for call in counterfactuals]
        assert texts.count(text_of(last)) == 1
    assert len(counterfactuals) == attribution.llm_calls == attribution.new_calls == 5


def test_asking_again_costs_nothing_and_says_the_same(resources: Resources, cases: Sequence[EvalCase]) -> None:
    request = RankInput.of(cases[1].request)
    first = attribute(resources, request, RPP)
    again = asyncio.run(aattribute(resources, request, RPP))
    assert (first.new_calls, again.new_calls) == (5, 0)
    assert again == first.model_copy(update={"new_calls": 0})
