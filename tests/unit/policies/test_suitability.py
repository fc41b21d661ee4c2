"""The rule of gains: it finds whom a change suits where that hangs on the user, and says one thing to all otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from promptailor.policies.suitability import learn_gains


def users(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 16))


def test_it_finds_those_who_gain_among_those_who_lose() -> None:
    rng, features, new = np.random.default_rng(1), users(200, 2), users(500, 3)
    gains = 0.1 * np.sign(features[:, 0]) + rng.normal(0, 0.15, 200)
    predicted = learn_gains(features, gains).predict(new)
    assert np.mean((predicted > 0) == (new[:, 0] > 0)) > 0.7


@pytest.mark.parametrize("level", [0.1, -0.1])
def test_where_all_gain_alike_it_says_so_to_nearly_all(level: float) -> None:
    features = users(200, 4)
    gains = level + np.random.default_rng(5).normal(0, 0.25, 200)
    predicted = learn_gains(features, gains).predict(users(500, 6))
    assert np.mean(np.sign(predicted) == np.sign(level)) > 0.9


def test_features_of_any_scale_and_without_spread_change_nothing() -> None:
    features = users(60, 7)
    gains = features[:, 0] + np.random.default_rng(8).normal(0, 0.1, 60)
    plain = learn_gains(features, gains).predict(features)
    odd = np.column_stack([features * 1_000 + 5, np.ones(60)])
    assert learn_gains(odd, gains).predict(odd) == pytest.approx(plain)


def test_it_is_ridge_regression() -> None:
    """Against the normal equations, at whichever penalty it chose."""
    features = users(80, 9)
    gains = features @ np.linspace(-0.3, 0.3, 16) + np.random.default_rng(10).normal(0, 0.5, 80)
    rule = learn_gains(features, gains)
    x = (features - features.mean(0)) / features.std(0)
    solutions = [
        np.linalg.solve(x.T @ x + penalty * np.eye(16), x.T @ (gains - gains.mean())) for penalty in (1.0, 10.0, 100.0)
    ]
    assert any(rule.weights == pytest.approx(solution) for solution in solutions)
