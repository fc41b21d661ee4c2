"""AGP runs as a user starts them: stopped and resumed, pinned and rolled back, evaluated, and read by RPP."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from promptailor.app.backends.budget import ONE_CALL, Budget, Spending
from promptailor.app.backends.stage import Stage
from promptailor.app.backends.store import STORE_FILE, ResponseStore
from promptailor.app.evaluation import EvaluateConfig, run_evaluation
from promptailor.app.job import AgpConfig, TrainConfig, TrainSummary
from promptailor.app.prompt_versions import diff_versions, list_versions, pin_version, rollback_version, show_version
from promptailor.app.trainers import check_policy
from promptailor.app.training import run_training_job
from promptailor.policies.checkpoint import read_manifest
from promptailor.policies.lineage import read_lineage
from promptailor.prompts.errors import BudgetExceededError, InputError, SpecError
from promptailor.prompts.llm import Message, ModelCall


def config(**changes: Any) -> TrainConfig:
    settings = {"policy": "agp", "dataset": "planted", "model": "planted:agp", "users": 20, "calls": 900}
    agp = AgpConfig(**{"batch": 5, "patience": 2, "accept": "paper"} | changes.pop("agp", {}))
    return TrainConfig(**settings | {"agp": agp} | changes)


def train(out: Path, *, resume: bool = False, kill_at: int | None = None, **changes: Any) -> TrainSummary:
    budget = None if kill_at is None else Killed(kill_at)
    return run_training_job(config(**changes), out, resume=resume, budget=budget)


class Killed(Budget):
    """Lets so many requests out and then none: a run ends there as if it were killed."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def reserve(self, most: Spending = ONE_CALL) -> None:
        if self.used.calls >= self.at:
            self.stop("killed")
        super().reserve(most)


def fingerprint(run: Path) -> dict[str, str]:
    files = [
        run / "prompts.json",
        run / "training.jsonl",
        *(p for p in sorted((run / "policy").rglob("*")) if p.is_file()),
    ]
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("agp") / "whole"
    train(out)
    return out


def test_the_manifest_counts_rewrites_and_holds_the_instruction(whole: Path) -> None:
    manifest, lineage = read_manifest(whole / "policy"), read_lineage(whole)
    assert manifest.profiling is not None
    assert manifest.profiling.instruction == lineage.instruction
    assert manifest.rewrites_proposed == lineage.proposed > 0
    assert manifest.rewrites_accepted == lineage.n_accepted > 0
    assert len(manifest.train_users) == 20
    assert manifest.validation_users


def test_a_run_that_is_stopped_anywhere_and_resumed_equals_the_unbroken_one(whole: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    killed = [train(broken, resume=broken.exists(), kill_at=at) for at in (37, 90)]
    assert [summary.stopped for summary in killed] == ["interrupted", "interrupted"]
    assert [summary.llm_requests for summary in killed] == [37, 127]
    assert fingerprint(broken) != fingerprint(whole)
    last = train(broken, resume=True)
    assert fingerprint(broken) == fingerprint(whole)
    assert last.llm_requests == ResponseStore(whole / STORE_FILE).requests


@pytest.mark.parametrize(("calls", "rounds"), [(20, 0), (160, 1)])
def test_a_budget_leaves_the_best_so_far_and_no_stage_takes_all_of_it(tmp_path: Path, calls: int, rounds: int) -> None:
    summary = train(tmp_path / "run", budget=f"calls={calls}")
    assert summary.stopped == "budget"
    assert summary.llm_requests <= calls
    assert len(read_lineage(tmp_path / "run").versions) > rounds
    assert read_manifest(tmp_path / "run" / "policy").profiling is not None


def test_too_few_calls_for_a_round_are_refused_before_any_is_paid(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--calls 40: .* a round takes 30"):
        train(tmp_path / "run", calls=40)
    assert not (tmp_path / "run" / "config.json").exists()


def test_versions_are_listed_compared_pinned_and_rolled_back(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run)
    served = list_versions(run).served
    assert show_version(run, None).version.number == served
    assert f"+++ version {served}" in diff_versions(run, None, None)
    assert rollback_version(run).served == read_lineage(run).version(served).parent
    pinned = pin_version(run, 0)
    manifest = read_manifest(run / "policy")
    assert manifest.profiling is not None
    assert manifest.profiling.instruction == pinned.lineage.versions[0].text
    train(run, resume=True)
    assert list_versions(run).served == 0, "a resumed run keeps what somebody pinned"
    pin_version(run, None)
    assert fingerprint(run) == fingerprint(whole)


def test_it_is_evaluated_like_any_policy(whole: Path, tmp_path: Path) -> None:
    asked = EvaluateConfig(
        methods=f"identity,manual,chain-of-thought,agp={whole}", dataset="planted", model="planted:agp", users="20"
    )
    report = run_evaluation(asked, tmp_path / "run", resume=False).report
    assert report.methods["agp"].llm_calls == 40
    assert report.methods["agp"].primary.mean > report.methods["manual"].primary.mean
    assert [(c.a, c.b) for c in report.paired if c.planned] == [("agp", "manual")]
    assert not set(report.split.train_users) & set(report.split.test_users)
    row = json.loads((tmp_path / "run" / "per_user.jsonl").read_text().splitlines()[0])
    assert row["metrics"]["mean_rank"] == 1 + row["ranking"].index(row["relevant_item_id"])


def test_the_ablations_train(tmp_path: Path) -> None:
    summary = train(tmp_path / "run", agp={"summaries": False, "position_feedback": False, "profile": False})
    manifest = read_manifest(summary.folder / "policy")
    assert manifest.profiling is None
    assert read_lineage(summary.folder).subject == "rerank"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "rpp"}, "rpp has no such setting"),
        (
            {"agp": None, "policy": "bandit", "profile": True, "profile_from": Path("x")},
            "goes with --profile, and with",
        ),
        ({"agp": None, "policy": "rpp", "profile_from": Path("x")}, "goes with --profile"),
    ],
)
def test_settings_of_other_policies_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_policy(config().model_copy(update=changes))


def test_a_stage_spends_its_share_and_no_more() -> None:
    stage = Stage(name="feedback", calls=2)
    first, second, third = (
        ModelCall(messages=(Message(role="user", content=text),), split="train") for text in ("a", "b", "c")
    )
    assert stage.begin("m", first)
    assert not stage.begin("m", first), "a repeated answer is free"
    assert stage.begin("m", second)
    assert stage.left == 0
    with pytest.raises(BudgetExceededError, match="feedback: its share of 2 calls"):
        stage.begin("m", third)
    assert not stage.begin("m", second)


def test_the_learned_instruction_is_measured_beside_the_manual_prompt(tmp_path: Path) -> None:
    (told,) = train(tmp_path / "run").notes
    difference = float(told.partition("by the manual prompt; ")[2].split()[0])
    assert difference > 0.1
    assert "serve manual" not in told
