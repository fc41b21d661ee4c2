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
from promptailor.policies.base import Decision, PolicyInfo
from promptailor.policies.best_of_k import BestOfK, BestOfKConfig
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.types import StateInputs
from promptailor.prompts.errors import ModelCallError
from promptailor.prompts.explanations import Part, load_wording
from promptailor.prompts.llm import ChatPort, Completion, ModelCall
from promptailor.prompts.patterns import Catalogue

RPP = Context(policy="rpp")
SENTENCES: tuple[Part, ...] = ("role_playing", "reasoning_guidance", "output_format")
CHANGES: tuple[tuple[Part, str], ...] = (
    ("reasoning_guidance", "reasoning_guidance"),
    ("history_records", "history_length"),
)
"""Parts of a prompt, and where a specification has them."""


@dataclass
class Spy:
    """A port that keeps the calls that go through it; fails where it is told to."""

    port: ChatPort
    calls: list[ModelCall] = field(default_factory=list)
    works: int = 1_000
    """Calls before the model is down."""

    @property
    def spec(self) -> str:
        return self.port.spec

    @property
    def max_candidates(self) -> int | None:
        return self.port.max_candidates

    def complete(self, call: ModelCall) -> Completion:
        self.calls.append(call)
        if len(self.calls) > self.works:
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


def test_the_rank_without_a_pattern_is_what_that_prompt_really_gives(
    resources: Resources, catalogue: Catalogue, cases: Sequence[EvalCase]
) -> None:
    """A manual prompt that differs in one sentence is its own counterfactual, and has no other."""
    spec = catalogue.manual_prompt.model_copy(update={"reasoning_guidance": 0, "history_length": 3})
    fixed = Fixed(Decision(spec=spec))
    resources = dataclasses.replace(resources, policies={**resources.policies, "fixed": fixed})
    request = RankInput.of(cases[2].request)
    attribution = attribute(resources, request, Context(policy="fixed"))
    effects = {effect.part: effect for effect in attribution.effects}
    for part, field_name in CHANGES:
        manually = {field_name: getattr(catalogue.manual_prompt, field_name)}
        other = Fixed(Decision(spec=spec.model_copy(update=manually)))
        without = served(
            dataclasses.replace(resources, policies={**resources.policies, "fixed": other}),
            request,
            Context(policy="fixed"),
        )
        ranks = {item.item_id: item.rank for item in without.items}
        assert {move.item_id: move.rank_without for move in effects[part].moves} == ranks
    manual = served(resources, request, Context(policy="manual"))
    ranks = {item.item_id: item.rank for item in manual.items}
    assert {move.item_id: move.rank_without for move in effects["prompt"].moves} == ranks
    assert effects["history_records"].change == "History 3 instead of 10"
    assert effects["role_playing"].reference.name == "none", "as in the manual prompt, so it is left out"


def test_sentences_say_places_in_words() -> None:
    wording = load_wording()
    change = wording.change_of("history_records", "3", "10")
    assert wording.move(change, 6, 2) == "History 3 instead of 10 moved this from sixth to second."
    assert wording.move(change, 20, 20) == "History 3 instead of 10 left this place 20."


@pytest.mark.parametrize("context", [
    Context(policy="rpp", refine=True),
    Context(policy="rpp", permutations=3),
    Context(policy="rpp", window=4),
    Context(policy="rpp", fusion="rrf"),
    Context(policy="rpp", n_steps=1, explore=True, seed=3),
    Context(policy="best-of-k"),
], ids=["refined", "permutations", "windows", "fused", "explored", "searched"])  # fmt: skip
def test_every_way_of_serving_can_be_explained(
    resources: Resources, catalogue: Catalogue, cases: Sequence[EvalCase], context: Context
) -> None:
    search = BestOfK(space=PromptSpace(catalogue), config=BestOfKConfig(k=3))
    resources = dataclasses.replace(
        resources, policies={**resources.policies, "best-of-k": search}, refiner=resources.recommender
    )
    request = RankInput.of(cases[3].request)
    answer = served(resources, request, context)
    attribution = attribute(resources, request, context)
    check(attribution, answer)
    per_prompt = (context.permutations or 1) * answer.steps[-1].windows
    assert all(effect.calls == per_prompt for effect in attribution.effects)
    assert attribution.served_calls == answer.llm_calls


def test_other_refined_sentences_stay_as_they_were_shown(
    resources: Resources, catalogue: Catalogue, cases: Sequence[EvalCase]
) -> None:
    edited = "Rank {{these}} {items} by {{taste}}."
    decision = Decision(spec=catalogue.manual_prompt, sentences={"reasoning_guidance": edited}, triggers="gold river")
    resources = dataclasses.replace(resources, policies={**resources.policies, "fixed": Fixed(decision)})
    resources, spy = spied(resources)
    attribution = attribute(resources, RankInput.of(cases[4].request), Context(policy="fixed"))
    shown = "Rank {these} items by {taste}."
    effects = {effect.part: effect for effect in attribution.effects}
    assert shown in effects["reasoning_guidance"].choice.text
    assert effects["reasoning_guidance"].choice.name.endswith(", edited")
    with_edit = [call for call in spy.calls[1:] if shown in text_of(call)]
    assert len(with_edit) == len(spy.calls) - 3, "all but its own counterfactual and the manual prompt"
    without_triggers = [call for call in spy.calls if "gold river" not in text_of(call)]
    assert len(without_triggers) == 2, "its own counterfactual, and the manual prompt"


def test_a_request_without_history_is_explained_too(resources: Resources, cases: Sequence[EvalCase]) -> None:
    request = RankInput.of(cases[0].request.model_copy(update={"history": ()}))
    attribution = attribute(resources, request, RPP)
    assert attribution.policy == "manual", "cold start"
    assert {effect.part for effect in attribution.effects} == set(SENTENCES)


def test_a_budget_ends_in_what_could_not_be_asked(
    catalogue: Catalogue, resources: Resources, cases: Sequence[EvalCase]
) -> None:
    model = resources.recommender
    assert isinstance(model, ModelPort)
    port = ModelPort(spec=model.spec, model=model.model, store=ResponseStore(), budget=Budget.parse("calls=5"))
    attribution = attribute(dataclasses.replace(resources, recommender=port), RankInput.of(cases[0].request), RPP)
    assert (attribution.served_calls, attribution.new_calls) == (3, 2)
    assert len(attribution.effects) == 2
    assert len(attribution.missing) == 3
    assert all("budget" in reason for reason in attribution.missing.values())


def test_a_model_that_fails_is_named(resources: Resources, cases: Sequence[EvalCase]) -> None:
    resources, spy = spied(resources)
    spy.works = 5
    attribution = attribute(resources, RankInput.of(cases[0].request), RPP)
    assert len(attribution.effects) == 2
    assert len(attribution.missing) == 3
    assert set(attribution.missing.values()) == {"the model is down"}
