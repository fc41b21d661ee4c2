"""Policies learned from another run's rewards, and GRIPS from the command line's jobs."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from promptailor.app.evaluation import EvaluateConfig, run_evaluation
from promptailor.app.job import TrainConfig
from promptailor.app.run_folder import POLICY, REWARDS
from promptailor.app.settings import Settings
from promptailor.app.training import run_training_job
from promptailor.app.wiring import Workspace
from promptailor.policies.checkpoint import read_manifest
from promptailor.policies.manual import SinglePrompt
from promptailor.prompts.errors import InputError, SpecError

pytestmark = pytest.mark.slow

PLANTED = {"dataset": "planted", "model": "planted:1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where embeddings of the planted world are kept."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTAILOR_HOME", str(home))


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A bandit's run, which tries a bit of everything."""
    folder = tmp_path_factory.mktemp("paid") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTAILOR_HOME", str(home))
        run_training_job(TrainConfig(policy="bandit", users=100, calls=1_500, **PLANTED), folder, resume=False)
    return folder


@pytest.mark.parametrize("policy", ["rpp", "bandit"])
def test_a_policy_learns_from_paid_rewards_without_a_call(tmp_path: Path, paid: Path, policy: str) -> None:
    assert len((paid / REWARDS).read_text("utf-8").splitlines()) == 1_500
    config = TrainConfig(policy=policy, users=100, calls=1_500, reward_from=paid, budget="calls=0", **PLANTED)
    summary = run_training_job(config, tmp_path / "run", resume=False)
    assert (summary.llm_requests, summary.cache_hits, summary.stopped) == (0, 0, "finished")
    assert not (tmp_path / "run" / REWARDS).exists() or not (tmp_path / "run" / REWARDS).read_text("utf-8")
    manifest = read_manifest(tmp_path / "run" / POLICY)
    assert len(manifest.train_users) == 100
    again = run_training_job(config, tmp_path / "again", resume=False)
    assert read_manifest(tmp_path / "again" / POLICY).version == manifest.version
    assert again.user_steps == summary.user_steps

    methods = f"manual,bandit@paid={paid},{policy}@modelled={tmp_path / 'run'}"
    report = run_evaluation(
        EvaluateConfig(methods=methods, users="100", **PLANTED), tmp_path / "evaluation", resume=False
    ).report
    means = {name: result.primary.mean for name, result in report.methods.items()}
    assert means[f"{policy}@modelled"] > means["manual"] + 0.15
    assert means[f"{policy}@modelled"] > means["bandit@paid"] - 0.05


def test_rewards_of_something_else_are_refused(tmp_path: Path, paid: Path) -> None:
    def train(**settings: object) -> None:
        config = TrainConfig.model_validate(
            {"policy": "bandit", "users": 100, "calls": 300, "reward_from": paid, **PLANTED} | settings
        )
        run_training_job(config, tmp_path / "run", resume=False)

    refused: list[tuple[dict[str, object], str]] = [
        ({"users": 50}, "pass --users 100"),
        ({"permutations": 2}, "its permutations is 1, not 2"),
        ({"model": "planted:2"}, "its dataset is"),
        ({"reward_from": tmp_path}, "no such file"),
    ]
    for settings, reason in refused:
        with pytest.raises(InputError, match=reason):
            train(**settings)
        assert not (tmp_path / "run").exists()
    refused = [
        ({"policy": "grips"}, "no edited sentences"),
        ({"policy": "rpp", "preset": "paper"}, "no ranking can be read"),
        ({"policy": "rpp", "pooling": "mean"}, "no ranking can be read"),
    ]
    for settings, reason in refused:
        with pytest.raises(SpecError, match=reason):
            train(**settings)


def test_grips_for_everybody_is_trained_saved_and_served(tmp_path: Path) -> None:
    config = TrainConfig(policy="grips", users=40, calls=500, **PLANTED)
    summary = run_training_job(config, tmp_path / "run", resume=False)
    assert 0 < summary.llm_requests <= 500
    policy = Workspace(settings=Settings(), dataset_name="planted", model="planted:1").load_policy(tmp_path / "run")
    assert isinstance(policy, SinglePrompt)
    report = run_evaluation(
        EvaluateConfig(methods=f"manual,grips={tmp_path / 'run'}", users="40", **PLANTED), tmp_path / "e", resume=False
    ).report
    assert report.methods["grips"].llm_calls == 40


def test_searches_per_request_are_foreseen_counted_and_gone_on_with(tmp_path: Path) -> None:
    methods = "manual,grips?rounds=2&candidates=3&paraphrase=false,best-of-k?k=5"
    config = EvaluateConfig(methods=methods, users="12", **PLANTED)
    whole = run_evaluation(config, tmp_path / "whole", resume=False)
    assert whole.projected.calls == pytest.approx(whole.spent.calls, rel=0.2)
    cut = run_evaluation(config.model_copy(update={"budget": "calls=80"}), tmp_path / "cut", resume=False)
    assert not cut.complete
    assert cut.spent.calls <= 80
    resumed = run_evaluation(config, tmp_path / "cut", resume=True)
    assert resumed.complete
    assert resumed.spent.calls == whole.spent.calls
    rows, again = (
        sorted((json.loads(line) for line in (tmp_path / run / "per_user.jsonl").open()), key=str)
        for run in ("whole", "cut")
    )
    assert [(r["method"], r["user_id"], r["ranking"], r["llm_calls"]) for r in rows] == [
        (r["method"], r["user_id"], r["ranking"], r["llm_calls"]) for r in again
    ]
    calls = {name: mean(r["llm_calls"] for r in rows if r["method"] == name) for name in ("manual", "best-of-k")}
    assert calls["manual"] == 1
    assert 5 <= calls["best-of-k"] <= 6
