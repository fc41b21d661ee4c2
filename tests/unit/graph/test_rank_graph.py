"""The rank graph as its callers see it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import ValidationError

from promptailor.app.backends.port import ModelPort
from promptailor.evals.types import EvalCase
from promptailor.graph import build, nodes
from promptailor.graph.build import AGENT_NODES, build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_training, to_rollout
from promptailor.graph.state import RankInput, RankOutput, RankState, TrainInput
from promptailor.policies.base import StepwisePolicy
from promptailor.policies.types import StateInputs
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import InputError, SpecError
from promptailor.prompts.llm import Completion, ModelCall

RPP = Context(policy="rpp")


def rank(resources: Resources, request: RankInput, context: Context = RPP) -> RankOutput:
    return RankOutput.model_validate(build_rank_graph(resources).invoke(request, context=context))


def test_an_answer_is_a_permutation_with_one_explained_step_per_call(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    answer = rank(resources, RankInput.of(cases[0].request))
    assert sorted(i.item_id for i in answer.items) == sorted(c.item_id for c in cases[0].request.candidates)
    assert [i.rank for i in answer.items] == list(range(1, 11))
    assert (len(answer.steps), answer.llm_calls, answer.policy, answer.version) == (3, 3, "rpp", "keyed")
    for step in answer.steps:
        assert set(step.choices) == {"role_playing", "history_records", "reasoning_guidance", "output_format"}
        assert all(0 < (choice.probability or 0) <= 1 for choice in step.choices.values())
    assert [item.item_id for item in answer.items] == answer.steps[-1].ranking, "`last` serves the last ranking"


def test_one_user_alone_gets_what_the_same_user_gets_inside_a_batch(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    graph = build_rank_graph(resources)
    requests = [RankInput.of(case.request) for case in cases[:20]]
    batch = graph.batch(requests, {"max_concurrency": 8}, context=RPP)
    fresh = build_rank_graph(dataclasses.replace(resources))
    alone = [fresh.invoke(request, context=RPP) for request in reversed(requests)]
    for ours, theirs in zip(batch, reversed(alone), strict=True):
        assert _essence(ours) == _essence(theirs)


def test_async_and_streamed_runs_answer_like_invoke(resources: Resources, cases: Sequence[EvalCase]) -> None:
    graph, request = build_rank_graph(resources), RankInput.of(cases[0].request)
    expected = _essence(graph.invoke(request, context=RPP))

    async def twice() -> list[dict[str, object]]:
        one = await graph.ainvoke(request, context=RPP)
        return [one, *await graph.abatch([request, request], context=RPP)]

    assert all(_essence(answer) == expected for answer in asyncio.run(twice()))
    updates = list(graph.stream(request, context=RPP, stream_mode="updates"))
    seen = {node for update in updates for node in update}
    assert seen == {"receive", "select_policy", "observe", "assemble", "recommend", "parse", "fuse", "explain"} | {
        AGENT_NODES[p] for p in ("role_playing", "history_records", "reasoning_guidance", "output_format")
    }


def test_the_four_agents_run_side_by_side(resources: Resources, cases: Sequence[EvalCase]) -> None:
    graph = build_rank_graph(resources)
    one_step = Context(policy="rpp", n_steps=1)
    events = graph.stream(RankInput.of(cases[0].request), context=one_step, stream_mode="debug")
    steps = [e["payload"]["name"] for e in events if e["type"] == "task" and e["step"] == 4]
    assert sorted(steps) == ["format_agent", "history_agent", "reasoning_agent", "role_agent"]


def test_history_grows_by_the_agents_increments_and_is_capped(resources: Resources, cases: Sequence[EvalCase]) -> None:
    case = cases[0]
    short = case.request.model_copy(update={"history": case.request.history[-2:]})
    for request in (case.request, short):
        answer = rank(resources, RankInput.of(request), Context(policy="rpp", n_steps=6))
        length = 1
        for step in answer.steps:
            length = min(length + step.choices["history_records"].action, len(request.history))
            assert step.history_length == length


def test_a_one_shot_policy_is_one_node_in_the_agents_place(resources: Resources, cases: Sequence[EvalCase]) -> None:
    answer = rank(resources, RankInput.of(cases[0].request), Context(policy="manual"))
    assert (answer.policy, len(answer.steps), answer.fallback) == ("manual", 1, None)
    assert answer.steps[0].choices["role_playing"].probability is None


def test_a_user_without_history_is_served_by_the_manual_prompt_and_the_answer_says_so(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    cold = cases[0].request.model_copy(update={"history": ()})
    answer = rank(resources, RankInput.of(cold))
    assert answer.policy == "manual"
    assert answer.fallback is not None
    assert "cold start" in answer.fallback


def test_fusing_steps_counts_all_of_them(resources: Resources, cases: Sequence[EvalCase]) -> None:
    answer = rank(resources, RankInput.of(cases[3].request), Context(policy="manual", n_steps=4, fusion="rrf"))
    scores = {i.item_id: sum(1 / (61 + s.ranking.index(i.item_id)) for s in answer.steps) for i in answer.items}
    fused = [item.item_id for item in answer.items]
    assert [scores[i] for i in fused] == sorted(scores.values(), reverse=True)
    assert len({tuple(step.shown) for step in answer.steps}) == 4, "every step shows another permutation"


def test_bare_ids_are_looked_up_and_unknown_ones_refused(resources: Resources, cases: Sequence[EvalCase]) -> None:
    request = cases[0].request
    ids = RankInput(
        user_id=7, history=[i.item_id for i in request.history], candidates=[i.item_id for i in request.candidates]
    )
    answer = rank(resources, ids)
    assert answer.user_id == 7, "the user id comes back as given"
    with pytest.raises(InputError, match=r"history: unknown item id 'nope'"):
        rank(resources, ids.model_copy(update={"history": ["nope"]}))
    stranger = Item(item_id="nope", title="Something New")
    ranked = rank(resources, ids.model_copy(update={"candidates": [*ids.candidates, stranger]}))
    assert "nope" in {item.item_id for item in ranked.items}, "an unknown item with a title is ranked"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"candidates": ["1"]}, ValidationError, "candidates"),
        ({"candidates": ["1", "1"]}, InputError, "item '1' occurs twice"),
        ({"domain": "opera"}, InputError, "domain 'opera' is unknown"),
        ({"relevant_item_ids": ["1"]}, ValidationError, "relevant_item_ids"),
    ],
)
def test_bad_requests_name_the_field(
    resources: Resources, change: dict[str, object], error: type[Exception], message: str
) -> None:
    request = {"user_id": "u", "history": ["2"], "candidates": ["3", "4"], **change}
    with pytest.raises(error, match=message):
        rank(resources, RankInput.model_validate(request))


def test_an_unknown_policy_lists_the_loaded_ones(resources: Resources, cases: Sequence[EvalCase]) -> None:
    with pytest.raises(SpecError, match=r"'nope' is not loaded; loaded: manual, rpp"):
        rank(resources, RankInput.of(cases[0].request), Context(policy="nope"))


def test_a_second_run_on_a_thread_starts_afresh(resources: Resources, cases: Sequence[EvalCase]) -> None:
    graph = build_rank_graph(resources, checkpointer=InMemorySaver())
    config = RunnableConfig(configurable={"thread_id": "t"})
    first = graph.invoke(RankInput.of(cases[0].request), config, context=RPP)
    second = graph.invoke(RankInput.of(cases[0].request), config, context=RPP)
    assert len(second["steps"]) == 3
    assert _essence(first) == _essence(second)


class Recorder:
    """A port that keeps every call."""

    def __init__(self, port: ModelPort) -> None:
        self.port, self.calls, self.lock = port, list[ModelCall](), threading.Lock()

    @property
    def spec(self) -> str:
        return self.port.spec

    @property
    def max_candidates(self) -> int | None:
        return self.port.max_candidates

    def complete(self, call: ModelCall) -> Completion:
        with self.lock:
            self.calls.append(call)
        return self.port.complete(call)

    async def acomplete(self, call: ModelCall) -> Completion:
        with self.lock:
            self.calls.append(call)
        return await self.port.acomplete(call)


def _prompts(resources: Resources, cases: Sequence[EvalCase], *, training: bool) -> dict[str, list[ModelCall]]:
    """Return the calls each user's episode makes."""
    recorder = Recorder(resources.recommender)  # type: ignore[arg-type]  # the fixture's port
    graph = build_rank_graph(dataclasses.replace(resources, recommender=recorder), training=training)
    calls: dict[str, list[ModelCall]] = {}
    for case in cases:
        recorder.calls.clear()
        if training:
            run_training(
                graph, [TrainInput.of(case.request, relevant_item_ids=[case.relevant_item_id])], RPP, n_steps=3
            )
        else:
            graph.invoke(RankInput.of(case.request), context=RPP)
        calls[case.user_id] = list(recorder.calls)
    return calls


def test_shuffling_labels_leaves_every_prompt_and_choice_byte_identical(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    """The oracle retry of LLMRank (published code) would break this: it asks again when the target is missing."""
    few = cases[:6]
    shuffled = [
        dataclasses.replace(c, relevant_item_id=c.request.candidates[(n * 3) % 10].item_id) for n, c in enumerate(few)
    ]
    assert _prompts(resources, few, training=True) == _prompts(resources, shuffled, training=True)
    assert _prompts(resources, few, training=True) == _prompts(resources, few, training=False)


def test_swapping_one_users_history_changes_that_users_prompts_and_nobody_elses(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    """The released RPP code shows every user somebody else's history (row i modulo the last batch)."""
    few = list(cases[:6])
    swapped: RankRequest = few[2].request.model_copy(update={"history": cases[9].request.history})
    changed = [*few[:2], dataclasses.replace(few[2], request=swapped), *few[3:]]
    before, after = (_prompts(resources, group, training=False) for group in (few, changed))
    for case in few:
        assert (before[case.user_id] == after[case.user_id]) is (case is not few[2])


def test_a_prompt_holds_the_users_own_items_and_the_target_only_among_the_candidates(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    for case in cases[:6]:
        target = next(c.title for c in case.request.candidates if c.item_id == case.relevant_item_id)
        own = {item.title for item in (*case.request.history, *case.request.candidates)}
        for call in _prompts(resources, [case], training=False)[case.user_id]:
            text = call.messages[-1].content
            assert text.count(target) == 1 + sum(item.title == target for item in case.request.history[-7:])
            shown = {line.partition(" ")[2] for line in text.splitlines() if line[:2] == "- " or line[:1].isdigit()}
            assert shown <= own


def test_a_training_run_rewards_each_user_with_its_own_ndcg(resources: Resources, cases: Sequence[EvalCase]) -> None:
    """The released RPP code gives every user the batch's mean."""
    graph = build_rank_graph(resources, training=True)
    outputs = run_training(
        graph, [TrainInput.of(c.request, relevant_item_ids=[c.relevant_item_id]) for c in cases], RPP, n_steps=3
    )
    assert len({tuple(output.rewards) for output in outputs}) > len(cases) // 2
    for output, case in zip(outputs, cases, strict=True):
        rollout = to_rollout(output, initial_length=1)
        assert rollout.user_id == case.user_id
        assert [t.reward for t in rollout.transitions] == output.rewards
        assert [t.inputs.step for t in rollout.transitions] == [0, 1, 2]
        assert rollout.final_inputs.step == 3


def test_an_episode_continued_step_by_step_equals_the_whole_one(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    graph = build_rank_graph(resources, training=True)
    explore = Context(policy="rpp", explore=True, seed=3)
    whole = run_training(
        graph, [TrainInput.of(cases[0].request, relevant_item_ids=[cases[0].relevant_item_id])], explore, n_steps=3
    )[0]
    rewards: list[float] = []
    user = TrainInput.of(cases[0].request, relevant_item_ids=[cases[0].relevant_item_id])
    for until in (1, 2, 3):
        output = run_training(graph, [user], explore, n_steps=until)[0]
        rewards += output.rewards
        user = user.model_copy(update={"trace": output.trace})
    assert rewards == whole.rewards
    assert [r.prompt.digest for r in user.trace] == [r.prompt.digest for r in whole.trace]


def test_the_history_tests_fail_when_users_are_shown_the_history_of_the_one_before_again(
    resources: Resources, cases: Sequence[EvalCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [cases[11].request, cases[12].request]

    def assemble_with_a_foreign_history(request: RankRequest, *args: Any, **options: Any) -> AssembledPrompt:
        if request.user_id != seen[-1].user_id:
            seen.append(request)
        return assemble(request.model_copy(update={"history": seen[-2].history}), *args, **options)

    monkeypatch.setattr(nodes, "assemble", assemble_with_a_foreign_history)
    with pytest.raises(AssertionError):
        test_a_prompt_holds_the_users_own_items_and_the_target_only_among_the_candidates(resources, cases)
    with pytest.raises(AssertionError):
        test_swapping_one_users_history_changes_that_users_prompts_and_nobody_elses(resources, cases)


def test_the_target_test_fails_when_the_history_holds_the_target_again(
    resources: Resources, cases: Sequence[EvalCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    target_of = {
        case.user_id: next(c for c in case.request.candidates if c.item_id == case.relevant_item_id) for case in cases
    }

    def assemble_with_the_target(request: RankRequest, *args: Any, **options: Any) -> AssembledPrompt:
        history = (*request.history, target_of[request.user_id])
        return assemble(request.model_copy(update={"history": history}), *args, **options)

    monkeypatch.setattr(nodes, "assemble", assemble_with_the_target)
    with pytest.raises(AssertionError):
        test_a_prompt_holds_the_users_own_items_and_the_target_only_among_the_candidates(resources, cases)


def test_the_label_test_fails_when_steps_stop_at_the_best_reward_again(
    resources: Resources, cases: Sequence[EvalCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_when_the_label_says_so(start_step: Callable[[RankState], str], done: str) -> Callable[[RankState], str]:
        def next_step(state: RankState) -> str:
            enough = len(state.trace) >= state.n_steps or (state.rewards and state.rewards[-1] > 0.6)
            return done if enough else start_step(state)

        return next_step

    monkeypatch.setattr(build, "_loop", stop_when_the_label_says_so)
    with pytest.raises(AssertionError):
        test_shuffling_labels_leaves_every_prompt_and_choice_byte_identical(resources, cases)


def test_the_reward_test_fails_when_everybody_gets_the_batchs_mean_again(
    resources: Resources, cases: Sequence[EvalCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "ndcg", lambda ranking, relevant, k: 0.454)
    with pytest.raises(AssertionError):
        test_a_training_run_rewards_each_user_with_its_own_ndcg(resources, cases)


def test_the_serving_test_fails_when_states_are_normalised_over_the_batch_again(
    resources: Resources, cases: Sequence[EvalCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    team, seen = resources.policies["rpp"], list[list[float]]()
    assert isinstance(team, StepwisePolicy)
    observe = team.observe

    def observe_less_the_mean(_: object, inputs: StateInputs) -> list[float]:
        vector = observe(inputs)
        seen.append(vector)
        return [value - sum(v[0] for v in seen) / len(seen) for value in vector]

    monkeypatch.setattr(type(team), "observe", observe_less_the_mean)
    with pytest.raises(AssertionError):
        test_one_user_alone_gets_what_the_same_user_gets_inside_a_batch(resources, cases)


def _essence(answer: dict[str, object]) -> dict[str, object]:
    """Return what must not depend on who else was served, that is everything but what the cache knew."""
    output = RankOutput.model_validate(answer).model_dump(exclude={"llm_calls": True, "steps": {"__all__": {"cached"}}})
    return output
