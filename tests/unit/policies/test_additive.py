"""The additive reward model finds what is there, and trusts the personal part only as far as it predicts."""

from __future__ import annotations

import numpy as np
import pytest

from promptailor.policies.additive import Array, fit_additive, length_codes

N_USERS, N = 100, 2000
RNG = np.random.default_rng(0)
USERS = np.arange(N) % N_USERS
FEATURES = RNG.choice([-1.0, 1.0], (N_USERS, 1))[USERS]
CHOICES = RNG.integers(0, [3, 5], (N, 2))
CODES = [np.eye(3)[CHOICES[:, 0]], np.eye(5)[CHOICES[:, 1]]]
SHARED = np.array([0.10, 0.0, -0.05])
PERSONAL = np.array([-0.1, -0.05, 0.0, 0.05, 0.1])


def rewards(seed: int, *, personal: float, user_sd: float = 0.0, noise: float = 0.15) -> Array:
    rng = np.random.default_rng(seed)
    signal = 0.5 + SHARED[CHOICES[:, 0]] + personal * PERSONAL[CHOICES[:, 1]] * FEATURES[:, 0]
    drawn: Array = signal + rng.normal(0, user_sd, N_USERS)[USERS] + rng.normal(0, noise, N)
    return drawn


def test_it_finds_shared_and_personal_effects() -> None:
    model = fit_additive(CODES, [FEATURES, FEATURES], rewards(1, personal=1.0), USERS)
    assert model.shared[0] - model.shared[0].mean() == pytest.approx(SHARED - SHARED.mean(), abs=0.02)
    assert model.personal[1][:, 0] == pytest.approx(PERSONAL, abs=0.03)
    assert model.trust[1] > 0.9
    assert model.noise == pytest.approx(0.15**2, rel=0.5)


def test_without_a_personal_signal_choices_stay_those_of_everybody() -> None:
    trusts, spreads = [], []
    for seed in range(8):
        model = fit_additive(CODES, [FEATURES, FEATURES], rewards(seed, personal=0.0), USERS)
        trusts.append(model.trust.mean())
        spreads.append(np.abs(model.personal[1]).max())
        assert model.shared[0].argmax() == 0
    assert np.mean(trusts) < 0.3
    assert np.max(spreads) < 0.03


def test_how_hard_a_users_target_is_does_not_blur_the_effects() -> None:
    errors = []
    for user_sd in (0.0, 0.5):
        model = fit_additive(CODES, [FEATURES, FEATURES], rewards(2, personal=1.0, user_sd=user_sd), USERS)
        errors.append(np.abs(model.personal[1][:, 0] - PERSONAL).max())
    assert errors[1] < errors[0] + 0.01


def test_posterior_draws_spread_around_the_model_and_narrow_with_data() -> None:
    def spread(n: int) -> float:
        y = rewards(3, personal=1.0)[:n]
        model = fit_additive([c[:n] for c in CODES], [FEATURES[:n]] * 2, y, USERS[:n])
        draws = np.stack([shared[0] for shared, _ in model.sample(200, seed=0)])
        assert draws.mean(axis=0) == pytest.approx(model.shared[0], abs=4 * draws.std() / 200**0.5 + 0.02)
        return float(draws.std(axis=0).mean())

    assert spread(2000) < spread(200)


def test_a_single_user_has_no_personal_part() -> None:
    few = slice(0, 30)
    model = fit_additive(
        [c[few] for c in CODES], [FEATURES[few]] * 2, rewards(4, personal=1.0)[few], np.zeros(30, dtype=np.int64)
    )
    assert not model.trust.any()


def test_length_codes_are_smooth_and_add_up_to_one() -> None:
    codes = length_codes(31)
    assert codes.sum(axis=1) == pytest.approx(np.ones(32))

    def alike(a: int, b: int) -> float:
        return float(codes[a] @ codes[b] / np.linalg.norm(codes[a]) / np.linalg.norm(codes[b]))

    assert alike(1, 2) < alike(20, 21)
    assert alike(5, 6) > alike(5, 9) > alike(5, 20)
