from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from promptailor.app import training
from promptailor.app.evaluation import EvaluateConfig, run_evaluation
from promptailor.app.job import TrainConfig
from promptailor.app.settings import Settings
from promptailor.app.wiring import PLANTED, Workspace
from promptailor.evals.protocol import read_cases
from promptailor.evals.report import read_report
from promptailor.evals.types import EvalCase
from promptailor.prompts.errors import DataError, SpecError


def workspace(candidates_from: str, *, retrieve: bool = False) -> Workspace:
    return Workspace(
        settings=Settings(), dataset_name=PLANTED, model=None, candidates_from=candidates_from, retrieve=retrieve
    )


@pytest.mark.parametrize("name", ["nothing", "identity", "no/such.file"])
def test_what_is_no_source_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(SpecError, match=f"--candidates-from {name}: .*popularity.*bm25"):
        _ = workspace(name).source


def test_retrieval_needs_a_retriever() -> None:
    with pytest.raises(SpecError, match="--retrieve: name a retriever"):
        workspace("random", retrieve=True).cases(["s0-u1"], 10, 0)


def test_lists_without_enough_items_for_anybody_are_named(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_text("s0-u1\t1 2 3\n")
    with pytest.raises(DataError, match="10 candidates for none of the 1 users"):
        workspace(str(path)).cases(["s0-u1"], 10, 0)


@pytest.fixture
def run_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTAILOR_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_retrieved_run_says_what_was_retrieved(run_home: Path) -> None:
    config = EvaluateConfig(
        methods="identity,popularity,random", dataset=PLANTED, users="60", candidates_from="popularity", retrieve=True
    )
    outcome = run_evaluation(config, run_home / "run", resume=False)
    report, cases = read_report(run_home / "run"), read_cases(run_home / "run" / "cases.jsonl")
    assert report.environment.settings["candidates_from"] == "popularity"
    assert report.recall == sum(case.slot is not None for case in cases) / 60 < 1
    # The retriever ranks its own list as it retrieved it.
    assert report.methods["identity"].primary == report.methods["popularity"].primary
    assert outcome.left_out == 0
    assert report.split.train_users == ()


def test_users_without_a_published_line_are_left_out_with_a_count(run_home: Path) -> None:
    test_users = workspace("random").split.test
    path = run_home / "lists"
    path.write_text("".join(f"{user}\t{' '.join(map(str, range(1, 41)))}\n" for user in test_users[5:25]))
    config = EvaluateConfig(methods="identity", dataset=PLANTED, candidates_from=str(path))
    outcome = run_evaluation(config, run_home / "run", resume=False)
    assert outcome.report.split.test_users == test_users[5:25]
    assert outcome.left_out == outcome.report.environment.settings["users_left_out"] == len(test_users) - 20
    some = run_evaluation(config.model_copy(update={"users": "8"}), run_home / "some", resume=False)
    assert some.report.split.test_users == test_users[5:13]


def test_training_users_may_get_hard_negatives(run_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SeenError(Exception):
        pass

    def seen(cases: Sequence[EvalCase]) -> None:
        raise SeenError(cases)

    monkeypatch.setattr(training, "train_inputs", seen)
    config = TrainConfig(
        policy="enumeration", dataset=PLANTED, model="planted:1", users=20, candidates_from="popularity"
    )
    with pytest.raises(SeenError) as caught:
        training.run_training_job(config, run_home / "run", resume=False)
    users = workspace("random").split.train[:20]
    hard, easy = (workspace(name).cases(users, 10, 0) for name in ("popularity", "random"))
    assert caught.value.args[0] == hard
    for case, other in zip(hard, easy, strict=True):
        assert (case.relevant_item_id, case.slot) == (other.relevant_item_id, other.slot)
        assert case.request.candidates != other.request.candidates
