"""Returns against numbers computed by hand, and against torchrl."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptailor.policies.returns import gae, n_step_returns, objective_rewards, serving_steps

REWARDS, VALUES = [1.0, 0.0, 2.0], [0.5, 0.25, 1.0, 4.0]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [1 + 0.5 * 0.25, 0 + 0.5 * 1.0, 2 + 0.5 * 4.0]),
        (2, [1 + 0.25 * 1.0, 0 + 0.5 * 2 + 0.25 * 4.0, 2 + 0.5 * 4.0]),
        (9, [1 + 0.25 * 2 + 0.125 * 4, 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4]),
    ],
)
def test_n_step_returns_by_hand(n: int, expected: list[float]) -> None:
    assert n_step_returns(REWARDS, VALUES, gamma=0.5, n=n) == pytest.approx(expected)


def test_truncation_bootstraps_and_stopping_does_not() -> None:
    stopped = [*VALUES[:-1], 0.0]
    assert n_step_returns(REWARDS, VALUES, gamma=0.5, n=1)[-1] == 4.0
    assert n_step_returns(REWARDS, stopped, gamma=0.5, n=1)[-1] == 2.0
    assert gae(REWARDS, stopped, gamma=0.5, lam=0.9)[-1] == 1.0


def test_gae_by_hand() -> None:
    last = 2 + 0.5 * 4 - 1
    middle = 0 + 0.5 * 1 - 0.25 + 0.5 * 0.8 * last
    first = 1 + 0.5 * 0.25 - 0.5 + 0.5 * 0.8 * middle
    assert gae(REWARDS, VALUES, gamma=0.5, lam=0.8) == pytest.approx([first, middle, last])


def test_gae_at_its_ends_is_the_td_error_and_the_full_return() -> None:
    td = [r + 0.9 * v_next - v for r, v, v_next in zip(REWARDS, VALUES, VALUES[1:], strict=False)]
    assert gae(REWARDS, VALUES, gamma=0.9, lam=0.0) == pytest.approx(td)
    whole = n_step_returns(REWARDS, VALUES, gamma=0.9, n=3) - VALUES[:-1]
    assert gae(REWARDS, VALUES, gamma=0.9, lam=1.0) == pytest.approx(whole)


@pytest.mark.slow
@pytest.mark.parametrize("terminated", [False, True])
def test_gae_agrees_with_torchrl(terminated: bool) -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=12), rng.normal(size=13)
    ends = torch.zeros(1, 12, 1, dtype=torch.bool)
    ends[0, -1, 0] = True
    stops = ends if terminated else torch.zeros_like(ends)
    theirs, _ = functional.generalized_advantage_estimate(
        0.95,
        0.9,
        torch.from_numpy(values[:-1])[None, :, None],
        torch.from_numpy(values[1:])[None, :, None],
        torch.from_numpy(rewards)[None, :, None],
        ends,
        stops,
    )
    own = [*values[:-1], 0.0 if terminated else values[-1]]
    assert gae(rewards.tolist(), own, gamma=0.95, lam=0.9) == pytest.approx(theirs[0, :, 0].numpy())


def test_the_final_objective_counts_what_is_served() -> None:
    assert objective_rewards(REWARDS, "sum") == REWARDS
    assert objective_rewards(REWARDS, "final") == [0.0, 0.0, 2.0]


def served(*means: float, n_users: int = 100, noise: float = 0.15) -> list[list[float]]:
    """Rewards per user and step whose means are given and whose noise differs between steps."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0.0, noise, (n_users, len(means)))
    return [list(row) for row in np.array(means) + draws - draws.mean(axis=0)]


def test_a_policy_that_learned_for_its_last_step_serves_all_unless_fewer_are_clearly_better() -> None:
    assert serving_steps(served(0.81, 0.82, 0.80), "final") == 3
    assert serving_steps(served(0.81, 0.90, 0.80), "final") == 2
    assert serving_steps(served(0.92, 0.90, 0.80), "final") == 1
    assert serving_steps([[0.5], [0.7]], "final") == 1


def test_a_policy_that_learned_for_the_sum_serves_its_best_step() -> None:
    assert serving_steps(served(0.81, 0.82, 0.80), "sum") == 2
