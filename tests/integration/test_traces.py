"""The story of how a prompt evolved is read from what LangSmith was sent alone, and from OpenTelemetry spans alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.proto", reason="the extra `tracing` is not installed")

from promptailor.app.pseudonym import pseudonym
from promptailor.app.settings import Settings
from promptailor.graph.state import StepView
from promptailor.graph.tracing import STEP_TAG
from tests.integration.capture import Captured, SentRun, capture
from tests.integration.traced import KEY, N_STEPS, RAW, Done

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PATTERNS = ("role_playing", "history_records", "reasoning_guidance", "output_format")


@dataclass(frozen=True)
class Traced:
    """What was done, and what was sent of it."""

    done: Done
    captured: Captured
    home: Path


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """One process that traces to both."""
    home = tmp_path_factory.mktemp("home")
    with capture() as captured:
        environment = os.environ | {
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": captured.url,
            "LANGSMITH_API_KEY": KEY,
            "OPENAI_API_KEY": KEY,
            "OTEL_EXPORTER_OTLP_ENDPOINT": captured.url,
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
            "PROMPTAILOR_HOME": str(home),
        }
        command = [sys.executable, "-m", "tests.integration.traced"]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
        assert ran.returncode == 0, ran.stderr
        yield Traced(Done.model_validate_json(ran.stdout), captured, home)


@dataclass(frozen=True)
class Step:
    """A step as a reader of a trace sees it."""

    policy: str
    step: int
    sentence_ids: dict[str, str]
    probabilities: dict[str, float]
    digest: str
    previous: str | None
    changes: list[str]
    ranking: list[str]

    @classmethod
    def read(cls, told: dict[str, Any]) -> Step:
        """Read it from `promptailor.*`, which metadata and attributes have in common."""
        return cls(
            policy=told["promptailor.policy"],
            step=told["promptailor.step"],
            sentence_ids={p: told[f"promptailor.sentence.{p}"] for p in PATTERNS},
            probabilities={p: told[f"promptailor.probability.{p}"] for p in PATTERNS},
            digest=told["promptailor.prompt_digest"],
            previous=told.get("promptailor.previous_digest"),
            changes=list(told["promptailor.changes"]),
            ranking=list(told["promptailor.ranking"]),
        )


def check_story(steps: list[Step], views: list[StepView]) -> None:
    """Compare a story with the answer it is of."""
    assert [s.step for s in steps] == list(range(N_STEPS))
    assert {s.policy for s in steps} == {"rpp+"}
    assert [s.digest for s in steps] == [view.prompt_digest for view in views]
    assert [s.previous for s in steps] == [None, *(view.prompt_digest for view in views[:-1])]
    assert [s.ranking for s in steps] == [view.ranking for view in views]
    for step, view in zip(steps, views, strict=True):
        assert step.sentence_ids == {p: view.choices[p].sentence_id for p in PATTERNS}
        assert step.probabilities == pytest.approx({p: view.choices[p].probability for p in PATTERNS})
    for before, after, step in zip(views, views[1:], steps[1:], strict=False):
        changed = {
            word: after.choices[pattern].sentence_id
            for pattern, word in (("role_playing", "role"), ("reasoning_guidance", "guidance"))
            if after.choices[pattern].changed
        }
        for word, sentence_id in changed.items():
            assert any(re.fullmatch(rf"{word} .* → {sentence_id}, refined \(p .*\)", c) for c in step.changes)
        lengths = (before.history_length, after.history_length)
        grown = f"history {lengths[0]} → {lengths[1]}"
        assert any(change.startswith(grown) for change in step.changes) == (lengths[0] != lengths[1])


def test_langsmith_runs_alone_tell_the_story(traced: Traced) -> None:
    runs, answer = traced.captured.runs(), traced.done.answer
    (root,) = [run for run in runs if run.id == traced.done.run_id]
    assert root.name == "rank rpp+"
    assert {"promptailor", "policy:rpp+"} <= set(root.tags)
    steps = [run for run in _below(root, runs) if STEP_TAG in run.tags]
    assert [run.name for run in steps] == [f"rpp+ step {n}" for n in (1, 2, 3)]
    check_story([Step.read(run.metadata) for run in steps], answer.steps)
    for run, view in zip(steps, answer.steps, strict=True):
        assert next(iter(run.outputs)) == "summary", "what a list of runs shows of the output comes first"
        assert run.outputs["refined"] == view.refined
        shown = [line[2:] for line in run.outputs["difference"] if line[0] == "+"]
        assert all(sentence in shown for sentence in view.refined.values() if sentence not in _before(run, steps))
    assert [r.name for r in _below(root, runs) if r.fields["run_type"] == "llm"], "the calls are there"
    (thumb,) = [score for score in traced.captured.feedback() if score["key"] == "thumbs"]
    assert (thumb["run_id"], thumb["score"]) == (root.id, 1.0)


def test_rewards_of_training_are_feedback_on_the_steps_and_on_the_whole(traced: Traced) -> None:
    runs = traced.captured.runs()
    scores = {score["run_id"]: score["score"] for score in traced.captured.feedback() if score["key"] == "ndcg"}
    roots = [run for run in runs if run.parent is None and run.outputs.get("rewards")]
    told = []
    for root in roots:
        steps = [run for run in _below(root, runs) if STEP_TAG in run.tags]
        told.append([scores[run.id] for run in steps])
        assert told[-1] == pytest.approx([run.outputs["reward"] for run in steps], abs=1e-4)
        assert scores[root.id] == told[-1][-1]
    expected = sorted(traced.done.rewards)
    assert [pytest.approx(rewards, abs=1e-4) for rewards in expected] == sorted(told)


def test_spans_alone_tell_the_story(traced: Traced) -> None:
    spans, answer = traced.captured.spans(), traced.done.answer
    root = next(span for span in spans if not span.parent and "enduser.pseudo.id" in span.attributes)
    assert root.name == "invoke_agent rank rpp+"
    assert root.resource["service.name"] == "promptailor"
    assert root.attributes["gen_ai.operation.name"] == "invoke_agent"
    trace = [span for span in spans if span.trace == root.trace]
    steps = [span for span in trace if "promptailor.step" in span.attributes]
    assert [span.name for span in steps] == [f"rpp+ step {n}" for n in (1, 2, 3)]
    check_story([Step.read(span.attributes) for span in steps], answer.steps)
    calls = [span for span in trace if span.attributes.get("gen_ai.operation.name") == "chat"]
    assert len(calls) == answer.llm_calls == N_STEPS * (1 + 3)
    assert all(span.attributes["gen_ai.usage.input_tokens"] > 0 for span in calls)
    (thumb,) = [span for span in trace if span.name == "evaluation thumbs"]
    assert thumb.parent == root.id
    said = {"gen_ai.evaluation.explanation": "nice, [redacted]"}
    assert thumb.events == [("gen_ai.evaluation.result", _evaluation("thumbs", 1.0) | said)]


def test_spans_alone_tell_of_rewards(traced: Traced) -> None:
    told: dict[bytes, list[float]] = {}
    for span in traced.captured.spans():
        if (reward := span.attributes.get("promptailor.reward")) is not None:
            told.setdefault(span.trace, []).append(reward)
            assert span.events == [("gen_ai.evaluation.result", _evaluation("ndcg", reward))]
    assert [pytest.approx(rewards) for rewards in sorted(traced.done.rewards)] == sorted(told.values())


def test_no_key_and_no_raw_user_id_is_sent(traced: Traced) -> None:
    sent = traced.captured.bytes()
    assert len(traced.captured.runs()) > 60
    assert RAW.encode() not in sent
    assert KEY.encode() not in sent
    assert b"The film of [redacted]" in sent, "it is the prompts that were sent"
    named = pseudonym(traced.done.answer.user_id, Settings(PROMPTAILOR_HOME=traced.home))
    (root,) = [run for run in traced.captured.runs() if run.id == traced.done.run_id]
    assert root.metadata["user_id"] == root.inputs["input"]["user_id"] == root.outputs["user_id"] == named
    assert any(span.attributes.get("enduser.pseudo.id") == named for span in traced.captured.spans())


def test_a_turn_of_a_chat_tells_of_its_steps_too(traced: Traced) -> None:
    runs = traced.captured.runs()
    (root,) = [run for run in runs if run.name == "chat rpp+"]
    steps = [run.name for run in _below(root, runs) if STEP_TAG in run.tags]
    assert steps == [f"manual step {n}" for n in (1, 2, 3)], "a visitor without a history"
    assert any(span.name == "invoke_agent chat rpp+" for span in traced.captured.spans())


def test_a_run_that_failed_says_why(traced: Traced) -> None:
    failed = [run for run in traced.captured.runs() if run.parent is None and run.fields.get("error")]
    assert len(failed) == 1
    assert "CatalogueError" in failed[0].fields["error"]
    spans = [span for span in traced.captured.spans() if not span.parent and "error.type" in span.attributes]
    assert [span.attributes["error.type"] for span in spans] == ["CatalogueError"]


def test_a_node_is_sent_without_the_state(traced: Traced) -> None:
    nodes = [run for run in traced.captured.runs() if run.name in {"observe", "assemble", "parse", "score"}]
    assert nodes
    assert all(set(run.inputs) <= {"policy", "step", "window"} for run in nodes)
    assert max(len(str(run.fields)) for run in nodes) < 6_000


def _below(root: SentRun, runs: list[SentRun]) -> list[SentRun]:
    return [run for run in runs if run.fields["trace_id"] == root.id and run.id != root.id]


def _before(run: SentRun, steps: list[SentRun]) -> str:
    place = steps.index(run)
    return str(steps[place - 1].outputs["refined"]) if place else ""


def _evaluation(key: str, score: float) -> dict[str, Any]:
    return {"gen_ai.evaluation.name": key, "gen_ai.evaluation.score.value": score}
