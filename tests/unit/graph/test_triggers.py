"""Trigger words on their way through the graph: a policy, a search or a trial adds them, and the model reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from promptailor.evals.types import EvalCase
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import GraphEvaluator
from promptailor.graph.state import RankInput, RankOutput, TrainInput
from promptailor.policies.base import Decision, PolicyInfo, Trial
from promptailor.policies.types import StateInputs
from promptailor.prompts.assemble import assemble
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.patterns import Catalogue

WORDS = Context(policy="words")


@dataclass(frozen=True)
class Words:
    """Keeps a word for one user and has another for everybody else."""

    catalogue: Catalogue
    own: dict[str, str]
    info: PolicyInfo = field(default_factory=lambda: PolicyInfo(name="words", version="test"))

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        return Decision(spec=self.catalogue.manual_prompt, triggers=self.own.get(inputs.user_id, "popular"))


class Reader:
    """A port that answers in shown order and keeps what it was asked."""

    spec, max_candidates = "test:reader", None

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    def complete(self, call: ModelCall) -> Completion:
        self.calls.append(call)
        return Completion(text="\n".join(call.labels), model=self.spec)

    async def acomplete(self, call: ModelCall) -> Completion:
        return self.complete(call)

    @property
    def last_line(self) -> str:
        return self.calls[-1].messages[-1].content.split("\n")[-1]


def test_each_user_gets_the_policys_words_and_a_later_run_on_the_thread_does_not_keep_them(
    resources: Resources, cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    reader, (ann, bob) = Reader(), cases[:2]
    policies = {**resources.policies, "words": Words(catalogue, {ann.user_id: "noir slow"})}
    graph = build_rank_graph(
        dataclasses.replace(resources, recommender=reader, policies=policies), checkpointer=InMemorySaver()
    )
    config = RunnableConfig(configurable={"thread_id": "t"})
    answer = RankOutput.model_validate(graph.invoke(RankInput.of(ann.request), config, context=WORDS))
    assert (reader.last_line, answer.steps[0].triggers) == (" noir slow", "noir slow")
    graph.invoke(RankInput.of(bob.request), config, context=WORDS)
    assert reader.last_line == " popular"
    answer = RankOutput.model_validate(graph.invoke(RankInput.of(bob.request), config, context=Context()))
    plain = assemble(bob.request, catalogue.manual_prompt, catalogue, seed=0)
    assert (answer.steps[0].triggers, answer.steps[0].prompt_digest) == ("", plain.digest)


def test_a_trial_brings_its_words_and_they_are_not_recorded_as_a_catalogue_prompts_reward(
    resources: Resources, cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    reader, recorded, case = Reader(), list[object](), cases[0]
    evaluator = GraphEvaluator(
        graph=build_rank_graph(dataclasses.replace(resources, recommender=reader), training=True),
        inputs_by_user={case.user_id: TrainInput.of(case.request, relevant_item_ids=[case.relevant_item_id])},
        context=Context(split="train"),
        initial_length=1,
        record=recorded.extend,
    )
    assert evaluator.inputs(case.user_id).user_id == case.user_id
    trial = Trial(user_id=case.user_id, spec=catalogue.manual_prompt, triggers="noir")
    evaluator.rewards([trial])
    assert (reader.last_line, recorded) == (" noir", [])
    evaluator.rewards([dataclasses.replace(trial, triggers="")])
    assert len(recorded) == 1


def test_words_are_the_last_line_and_change_nothing_else(cases: Sequence[EvalCase], catalogue: Catalogue) -> None:
    request, spec = cases[0].request, catalogue.manual_prompt
    bare = assemble(request, spec, catalogue, seed=3)
    worded = assemble(request, spec, catalogue, seed=3, triggers="noir slow")
    assert worded.user == f"{bare.user}\n noir slow"
    assert (worded.system, worded.shown) == (bare.system, bare.shown)
    assert worded.digest != bare.digest
