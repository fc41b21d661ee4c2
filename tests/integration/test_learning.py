"""Learning where the truth is known: planted worlds with a best prompt per user, and one where no prompt is better."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from promptailor.app.job import TrainConfig
from promptailor.app.run_folder import POLICY
from promptailor.app.settings import Settings
from promptailor.app.training import run_training_job
from promptailor.app.wiring import Workspace, train_inputs
from promptailor.graph.context import Context
from promptailor.graph.rollout import run_training
from promptailor.graph.state import TrainOutput
from promptailor.policies.checkpoint import read_manifest

pytestmark = pytest.mark.slow

NEW_USERS = 500


def serve_new_users(run: Path, model: str, policy: str | None, n_users: int, seed: int) -> list[TrainOutput]:
    """Serve test users greedily with a trained policy, or with the manual prompt."""
    workspace = Workspace(settings=Settings(), dataset_name="planted", model=model, seed=seed)
    policies = {policy: workspace.load_policy(run)} if policy else {}
    graph = workspace.graph(policies, training=True)
    users = train_inputs(workspace.cases(workspace.split.test[:n_users], 10, seed))
    n_steps = read_manifest(run / POLICY).n_steps if policy else 1
    context = Context(policy=policy or "manual", seed=seed, split="test")
    return run_training(graph, users, context, n_steps=n_steps)


@pytest.mark.parametrize("policy", ["rpp", "bandit"])
def test_on_a_planted_world_a_learner_comes_within_five_percent_of_the_optimum(tmp_path: Path, policy: str) -> None:
    config = TrainConfig(policy=policy, dataset="planted", model="planted:1")
    summary = run_training_job(config, tmp_path, resume=False)
    assert summary.llm_requests <= 3_000
    outputs = serve_new_users(tmp_path, "planted:1", policy, NEW_USERS, seed=0)
    world = Workspace(settings=Settings(), dataset_name="planted", model="planted:1").world
    assert world is not None
    requests = [output.request for output in outputs]
    optimum = world.optimum(requests)
    served = mean(world.quality(output.request, output.trace[-1].spec) for output in outputs)
    single, _ = world.best_single(requests)
    assert single <= 0.75 * optimum
    assert served >= 0.95 * optimum, f"{served:.3f} of {optimum:.3f}"


def test_on_the_null_world_rpp_gains_nothing(tmp_path: Path) -> None:
    differences = []
    for seed in range(2):
        config = TrainConfig(policy="rpp", dataset="planted", model="planted:null", users=60, calls=900, seed=seed)
        run_training_job(config, tmp_path / str(seed), resume=False)
        ours = serve_new_users(tmp_path / str(seed), "planted:null", "rpp", 400, seed)
        manual = serve_new_users(tmp_path / str(seed), "planted:null", None, 400, seed)
        differences += [a.rewards[-1] - b.rewards[-1] for a, b in zip(ours, manual, strict=True)]
    standard_error = float(np.std(differences)) / len(differences) ** 0.5
    assert abs(mean(differences)) < 3 * standard_error
