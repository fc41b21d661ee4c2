"""What a run costs is foreseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.app.backends.budget import Spending
from promptailor.app.evaluation import EvaluateConfig, run_evaluation
from promptailor.app.job import TrainConfig
from promptailor.app.training import run_training_job
from promptailor.graph.train import Schedule

pytestmark = pytest.mark.slow


def close(foreseen: Spending, spent: Spending, tolerance: float) -> bool:
    return all(
        abs(ours - theirs) <= tolerance * theirs
        for ours, theirs in ((foreseen.calls, spent.calls), (foreseen.tokens, spent.tokens))
    )


@pytest.mark.parametrize("policy", ["rpp", "rpp+", "bandit", "random-search"])
def test_the_cost_of_training_is_foreseen(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(policy=policy, dataset="planted", model="planted:1", users=20, calls=380)
    done = run_training_job(config, tmp_path, resume=False)
    assert close(done.projected, Spending(calls=done.llm_requests, tokens=done.tokens), 0.1)
    assert f"about {done.projected.calls:,} calls" in capsys.readouterr().err


def test_the_cost_of_an_evaluation_is_foreseen_and_a_budget_that_is_too_small_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(methods="identity,manual", dataset="planted", model="planted:1", users="30")
    done = run_evaluation(config, tmp_path / "whole", resume=False)
    assert close(done.projected, done.spent, 0.1)
    cut = config.model_copy(update={"budget": "calls=25"})
    assert not run_evaluation(cut, tmp_path / "cut", resume=False).complete
    assert "the budget will stop it before its end" in capsys.readouterr().err


@pytest.mark.parametrize(("calls", "planned"), [(0, 0), (29, 0), (30, 30), (100, 90), (120, 120)])
def test_a_schedule_plans_whole_updates(calls: int, planned: int) -> None:
    schedule = Schedule(n_steps=3, steps_per_update=3, users_per_update=10, calls=calls)
    assert schedule.planned(20) == planned
