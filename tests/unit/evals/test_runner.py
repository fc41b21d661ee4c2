from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptailor.evals import render, runner, statistics
from promptailor.evals.baselines.base import Method, RankedUser
from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.controls import SwappedHistory
from promptailor.evals.report import EvalReport, RunInfo, Split
from promptailor.evals.runner import evaluate
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.errors import InputError, ModelCallError

MakeCases = Callable[..., list[EvalCase]]
CHANCE = sum(1 / math.log2(place + 2) for place in range(10)) / 10


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and intervals have tests of their own; here they would cost most of the time."""
    monkeypatch.setattr(render, "to_html", lambda report: "<html>")
    monkeypatch.setattr(statistics, "N_BOOTSTRAP", 300)


def rows_of(folder: Path, name: str = "per_user.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def comparable(folder: Path) -> dict[str, Any]:
    """Everything of a run but the time it took."""
    report = json.loads((folder / "report.json").read_text("utf-8"))
    for result in (*report["methods"].values(), *report["controls"].values()):
        del result["seconds"]
    names = ("config.json", "cases.jsonl", "per_user.jsonl", "controls.jsonl")
    return {"report": report, **{name: (folder / name).read_bytes() for name in names}}


def test_figures_follow_from_the_records(tmp_path: Path, make_cases: MakeCases, scripted: Any) -> None:
    cases = make_cases(200)
    methods: list[Method] = [Identity(), scripted("manual", 0.4), scripted("rpp", 0.7)]
    report = evaluate(cases, methods, [Identity(), Random(0)], tmp_path, seed=0)

    rows = rows_of(tmp_path)
    assert [row["method"] for row in rows] == [m.name for m in methods for _ in cases]
    for name, result in report.methods.items():
        own = [row for row in rows if row["method"] == name]
        assert [row["user_id"] for row in own] == [case.user_id for case in cases]
        gains = [1 / math.log2(row["ranking"].index(row["relevant_item_id"]) + 2) for row in own]
        assert [row["metrics"]["ndcg@10"] for row in own] == pytest.approx(gains)
        assert result.primary.mean == pytest.approx(sum(gains) / 200)
        assert result.primary.low < result.primary.mean < result.primary.high
        spread = 1.96 * np.std(gains) / math.sqrt(200)
        assert result.primary.high - result.primary.low == pytest.approx(2 * spread, rel=0.25)
        assert result.measures["hr@1"].mean == pytest.approx(sum(gain == 1 for gain in gains) / 200)
        assert result.n_users == 200
        assert result.llm_calls == (0 if name == "identity" else 200)
        assert result.invalid_rate == pytest.approx(sum(row["invalid"] for row in own) / 200)
    assert set(report.controls) == {"random", *(f"shuffled-labels:{m.name}" for m in methods)}
    assert report.incomplete is None
    assert EvalReport.model_validate_json((tmp_path / "report.json").read_text("utf-8")) == report
    (gain,) = [c for c in report.paired if (c.a, c.b) == ("rpp", "manual")]
    difference = report.methods["rpp"].primary.mean - report.methods["manual"].primary.mean
    assert gain.difference == pytest.approx(difference)
    assert gain.p_holm < 0.05
    assert any(verdict.startswith("rpp minus manual: +") and "gain is shown" in verdict for verdict in report.verdicts)


def test_null_controls_are_at_chance_and_the_history_is_what_earned_the_score(
    tmp_path: Path, make_cases: MakeCases, scripted: Any
) -> None:
    cases = make_cases(400)
    method = scripted("rpp", 0.8)
    controls: list[Method] = [Identity(), Random(0), SwappedHistory(scripted("rpp", 0.8), cases, seed=0)]
    report = evaluate(cases, [method], controls, tmp_path, seed=0)
    assert report.methods["rpp"].primary.low > 0.8
    assert set(report.controls) == {"identity", "random", "swapped-history:rpp", "shuffled-labels:rpp"}
    for name, result in report.controls.items():
        scores = [row["metrics"]["ndcg@10"] for row in rows_of(tmp_path, "controls.jsonl") if row["method"] == name]
        assert abs(result.primary.mean - CHANCE) < 3 * np.std(scores) / math.sqrt(400), name


def test_swapped_histories_come_from_other_users_and_change_nothing_else(make_cases: MakeCases, scripted: Any) -> None:
    cases, method = make_cases(7), scripted("rpp", 1.0)
    requests = [case.request for case in cases]
    SwappedHistory(method, cases, seed=0).rank(requests)
    histories = {request.user_id: request.history for request in requests}
    donated = [request.history for request in method.requests]
    assert all(given != histories[request.user_id] for given, request in zip(donated, requests, strict=True))
    assert sorted(donated, key=str) == sorted(histories.values(), key=str)
    assert [r.model_copy(update={"history": ()}) for r in method.requests] == [
        r.model_copy(update={"history": ()}) for r in requests
    ]


def test_labels_reach_scores_and_nothing_else(tmp_path: Path, make_cases: MakeCases, scripted: Any) -> None:
    cases = make_cases(60)
    moved = [
        replace(
            case,
            relevant_item_id=case.request.candidates[(case.slot or 0) - 3].item_id,
            slot=((case.slot or 0) - 3) % 10,
        )
        for case in cases
    ]
    told, lied = scripted("rpp", 0.6), scripted("rpp", 0.6)
    evaluate(cases, [told], [], tmp_path / "told", seed=0)
    evaluate(moved, [lied], [], tmp_path / "lied", seed=0)
    assert told.requests == lied.requests
    labels = {"relevant_item_id", "slot", "shown_slot", "metrics"}
    one, other = rows_of(tmp_path / "told"), rows_of(tmp_path / "lied")
    assert [row["metrics"] for row in one] != [row["metrics"] for row in other]
    unlabelled = [[{k: v for k, v in row.items() if k not in labels} for row in rows] for rows in (one, other)]
    assert json.dumps(unlabelled[0]) == json.dumps(unlabelled[1])
    shuffled = rows_of(tmp_path / "told", "controls.jsonl")
    assert [row["ranking"] for row in shuffled] == [row["ranking"] for row in one]


def test_the_rate_of_rejected_rewrites_is_reported_where_there_were_rewrites(
    tmp_path: Path, make_cases: MakeCases, scripted: Any
) -> None:
    class Refined:
        """Two sentences rewritten for everybody; one rewrite fails for every other user."""

        name, llm, train_users = "rpp+", True, ()

        def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
            answers = scripted("inner", 0.5).rank(requests)
            return [replace(answer, rewrites=2, rejected_rewrites=int(answer.user_id[1:]) % 2) for answer in answers]

    report = evaluate(make_cases(20), [scripted("rpp", 0.5), Refined()], [], tmp_path / "run", seed=0)
    assert report.methods["rpp"].rejected_rewrite_rate is None
    assert report.methods["rpp+"].rejected_rewrite_rate == pytest.approx(0.25)
    assert "| 25.0% |" in (tmp_path / "run" / "report.md").read_text("utf-8")


def test_a_user_that_a_retriever_missed_counts_as_zero(tmp_path: Path, make_cases: MakeCases, scripted: Any) -> None:
    cases = [
        replace(case, relevant_item_id="elsewhere", slot=None) if n < 5 else case
        for n, case in enumerate(make_cases(10))
    ]
    report = evaluate(cases, [scripted("manual", 1.0)], [], tmp_path, seed=0)
    assert report.methods["manual"].primary.mean == pytest.approx(0.5)
    assert [row["slot"] for row in rows_of(tmp_path)][:5] == [None] * 5


def test_users_seen_in_training_are_left_out_for_every_method(
    tmp_path: Path, make_cases: MakeCases, scripted: Any
) -> None:
    learned = scripted("rpp", 0.5, train_users=["u0", "u3", "somebody"])
    report = evaluate(make_cases(20), [Identity(), learned], [], tmp_path, seed=0)
    left = {f"u{n}" for n in range(20)} - {"u0", "u3"}
    assert {row["user_id"] for row in rows_of(tmp_path)} == left
    assert set(report.split.test_users) == left
    assert set(report.split.train_users) == {"u0", "u3", "somebody"}
    assert {request.user_id for request in learned.requests} == left
    assert {json.loads(line)["request"]["user_id"] for line in (tmp_path / "cases.jsonl").open("rb")} == left


def test_the_left_out_test_fails_when_training_users_are_evaluated_again(
    tmp_path: Path, make_cases: MakeCases, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "unseen", lambda cases, train_users, warm_users: list(cases))
    with pytest.raises((AssertionError, InputError)):
        test_users_seen_in_training_are_left_out_for_every_method(tmp_path, make_cases, scripted)


def test_warm_users_stay_and_are_listed(tmp_path: Path, make_cases: MakeCases, scripted: Any) -> None:
    learned = scripted("pap-rec", 0.5, train_users=["u0", "u1"])
    report = evaluate(make_cases(10), [learned], [], tmp_path, seed=0, info=RunInfo(warm_users=("u0",)))
    assert set(report.split.test_users) == {f"u{n}" for n in range(10)} - {"u1"}
    assert report.split.warm_users == ("u0",)


def test_training_and_test_users_cannot_overlap(tmp_path: Path, make_cases: MakeCases, scripted: Any) -> None:
    with pytest.raises(InputError, match=r"test_users: 1 user.*'b'"):
        Split(train_users=("a", "b"), test_users=("b", "c"))
    assert Split(train_users=("b",), test_users=("b",), warm_users=("b",)).warm_users == ("b",)
    with pytest.raises(InputError, match="all 2 were trained"):
        evaluate(make_cases(2), [scripted("rpp", 1.0, train_users=["u0", "u1"])], [], tmp_path, seed=0)


def test_an_exhausted_budget_keeps_what_was_paid_for_and_resumes_to_the_same_run(
    tmp_path: Path, make_cases: MakeCases, scripted: Any
) -> None:
    cases = make_cases(150)
    controls: list[Method] = [Random(0)]
    evaluate(cases, [Identity(), scripted("manual", 0.4), scripted("rpp", 0.7)], controls, tmp_path / "whole", seed=0)

    manual, rpp = scripted("manual", 0.4), scripted("rpp", 0.7, budget=100)
    folder = tmp_path / "stopped"
    report = evaluate(cases, [Identity(), manual, rpp], controls, folder, seed=0)
    assert report.incomplete == "rpp: budget of 100 calls is spent; raise --budget"
    assert {name: result.n_users for name, result in report.methods.items()} == {
        "identity": 100,
        "manual": 100,
        "rpp": 100,
    }
    assert report.controls["random"].n_users == 100
    assert len(manual.answered) == 128  # two chunks, of which the second was not finished by both
    slots = [row["slot"] for row in rows_of(folder) if row["method"] == "rpp"]
    assert {slots.count(slot) for slot in range(10)} == {10}

    rpp.budget, asked = None, len(manual.requests)
    resumed = evaluate(cases, [Identity(), manual, rpp], controls, folder, seed=0, resume=True)
    assert resumed.incomplete is None
    assert len(manual.requests) - asked == 150 - 128
    assert len(rpp.answered) == 150
    assert comparable(folder) == comparable(tmp_path / "whole")

    asked = len(rpp.requests)
    evaluate(cases, [Identity(), manual, rpp], controls, folder, seed=0, resume=True)
    assert len(rpp.requests) == asked  # nothing is left to ask
    assert comparable(folder) == comparable(tmp_path / "whole")


def test_a_run_that_finished_nobody_says_so(tmp_path: Path, make_cases: MakeCases, scripted: Any) -> None:
    report = evaluate(make_cases(5), [scripted("manual", 1.0, budget=0)], [], tmp_path, seed=0)
    assert report.incomplete is not None
    assert report.methods == {}
    assert "**Incomplete.**" in (tmp_path / "report.md").read_text("utf-8")


def test_a_budget_spent_on_controls_leaves_the_methods_whole(
    tmp_path: Path, make_cases: MakeCases, scripted: Any
) -> None:
    cases = make_cases(30)
    swapped = SwappedHistory(scripted("rpp", 1.0, budget=12), cases, seed=0)
    report = evaluate(cases, [scripted("rpp", 1.0)], [swapped, Random(0)], tmp_path, seed=0)
    assert report.incomplete == "swapped-history:rpp: budget of 12 calls is spent; raise --budget"
    assert report.methods["rpp"].n_users == 30
    assert set(report.controls) == {"random", "shuffled-labels:rpp"}


class Broken:
    """A method whose model fails for one user."""

    name, llm, train_users = "broken", True, ()

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        if any(request.user_id == "u7" for request in requests):
            raise ModelCallError("503 from the server")
        return Identity().rank(requests)


def test_a_failing_model_stops_the_run_with_the_true_reason(tmp_path: Path, make_cases: MakeCases) -> None:
    report = evaluate(make_cases(20), [Identity(), Broken()], [], tmp_path, seed=0)
    assert report.incomplete == "broken: 503 from the server"
    assert report.methods["broken"].n_users == report.methods["identity"].n_users == 7


class Forgetful:
    """A method that drops users."""

    name, llm, train_users = "forgetful", False, ()

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        return Identity().rank(requests[1:])


def test_a_method_that_drops_users_is_refused(tmp_path: Path, make_cases: MakeCases) -> None:
    with pytest.raises(InputError, match="2 answers to 3 requests"):
        evaluate(make_cases(3), [Forgetful()], [], tmp_path, seed=0)


def test_names_must_differ(tmp_path: Path, make_cases: MakeCases) -> None:
    with pytest.raises(InputError, match="names must differ"):
        evaluate(make_cases(3), [Identity(), Identity()], [], tmp_path, seed=0)


def test_progress_is_told(tmp_path: Path, make_cases: MakeCases) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(make_cases(70), [Identity()], [], tmp_path, seed=0, progress=lambda *step: told.append(step))
    assert told == [("identity", 64, 70), ("identity", 70, 70)]


class Suicidal:
    """Kills its process, beyond any handler, when a user comes up."""

    name, llm, train_users = "rpp", True, ()

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        if any(request.user_id == self.user_id for request in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        return Random(5).rank(requests)


def test_a_killed_run_resumes_to_the_same_run(tmp_path: Path, make_cases: MakeCases) -> None:
    cases = make_cases(150)
    evaluate(cases, [Identity(), Suicidal("nobody")], [Random(0)], tmp_path / "whole", seed=0)

    folder = tmp_path / "killed"
    run = multiprocessing.get_context("fork").Process(
        target=evaluate, args=(cases, [Identity(), Suicidal("u149")], [Random(0)], folder), kwargs={"seed": 0}
    )
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    lines = rows_of(folder)
    assert len(lines) == 150 + 128
    with (folder / "per_user.jsonl").open("ab") as file:
        file.write(b'{"method": "rpp", "user_')  # and torn in the middle of a line
    report = evaluate(cases, [Identity(), Suicidal("nobody")], [Random(0)], folder, seed=0, resume=True)
    assert report.incomplete is None
    assert comparable(folder) == comparable(tmp_path / "whole")
