"""What a trace tells of a run, as any listener to LangChain's callbacks sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.tracers.schemas import Run

from promptailor.evals.types import EvalCase
from promptailor.graph import tracing
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput, TrainInput
from promptailor.graph.tracing import STEP_TAG

RPP = Context(policy="rpp", explore=True)


def traced(resources: Resources, request: RankInput, context: Context) -> tuple[dict[str, Any], list[Run]]:
    """Run a graph and collect its runs."""
    collector = RunCollectorCallbackHandler()
    graph = build_rank_graph(resources, training=isinstance(request, TrainInput))
    result = graph.invoke(request, {"callbacks": [collector]}, context=context)
    (root,) = collector.traced_runs
    return result, _all(root)


def _all(run: Run) -> list[Run]:
    return [run, *(descendant for child in run.child_runs for descendant in _all(child))]


def steps_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [run.outputs or {} for run in runs if STEP_TAG in (run.tags or ())]


def test_every_step_tells_what_it_changed(resources: Resources, cases: Sequence[EvalCase]) -> None:
    result, runs = traced(resources, RankInput.of(cases[0].request), RPP)
    answer = RankOutput.model_validate(result)
    told = steps_of(runs)
    assert [step["prompt_digest"] for step in told] == [step.prompt_digest for step in answer.steps]
    assert [step["previous_digest"] for step in told] == [None, *(s.prompt_digest for s in answer.steps[:-1])]
    first, second = told[0], told[1]
    assert len(first["changes"]) == 4, "the first step tells all that it chose"
    for pattern, choice in answer.steps[1].choices.items():
        if pattern != "history_records" and choice.changed:
            before = answer.steps[0].choices[pattern].sentence
            assert f"- {before}" in second["difference"]
            assert f"+ {choice.sentence}" in second["difference"]
    assert not any(line[2:3].isdigit() for line in second["difference"]), "candidates are shuffled, which is no change"


def test_a_step_that_changes_nothing_says_so(resources: Resources, cases: Sequence[EvalCase]) -> None:
    _, runs = traced(resources, RankInput.of(cases[0].request), Context(policy="manual", n_steps=2))
    assert [step["summary"] for step in steps_of(runs)][1] == "unchanged"
    assert steps_of(runs)[1]["difference"] == []


def test_a_training_graph_tells_the_reward_of_each_step(resources: Resources, cases: Sequence[EvalCase]) -> None:
    request = TrainInput.of(cases[0].request, relevant_item_ids=[cases[0].relevant_item_id])
    result, runs = traced(resources, request, RPP)
    assert [step["reward"] for step in steps_of(runs)] == result["rewards"]
    _, served = traced(resources, RankInput.of(cases[0].request), RPP)
    assert {step["reward"] for step in steps_of(served)} == {None}, "nobody knows it when serving"


def test_a_step_in_windows_is_told_once(resources: Resources, cases: Sequence[EvalCase]) -> None:
    _, runs = traced(resources, RankInput.of(cases[0].request), RPP.model_copy(update={"window": 4}))
    assert len(steps_of(runs)) == 3
    assert len([run for run in runs if run.name == "parse"]) == 12


def test_nothing_is_told_where_nobody_listens(
    resources: Resources, cases: Sequence[EvalCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    def costs(*_: object, **__: object) -> None:
        raise AssertionError("a story was made up for nobody")

    monkeypatch.setattr(tracing, "step_story", costs)
    monkeypatch.setattr(tracing, "_slim", costs)
    build_rank_graph(resources).invoke(RankInput.of(cases[0].request), context=RPP)


def test_nodes_are_recorded_without_user_ids_and_vectors(
    resources: Resources, cases: Sequence[EvalCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_recording", True)
    request = RankInput.of(cases[0].request).model_copy(update={"user_id": "raw-id"})
    result, (_, *nodes) = traced(resources, request, RPP.model_copy(update={"refine": False}))
    assert result["user_id"] == "raw-id"
    payloads = [json.dumps([run.inputs, run.outputs], default=repr) for run in nodes]
    assert len(payloads) > 20
    assert not [payload for payload in payloads if "raw-id" in payload]
    assert max(map(len, payloads)) < 8_000
    (choices,) = [run.outputs for run in nodes if run.name == "role_agent"][:1]
    assert choices is not None
    assert choices["choices"]["role_playing"]["probability"] == pytest.approx(0.3679, abs=1e-3)
