from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from promptailor.evals import statistics as evs


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    samples = rng.beta(2, 3, size=(60, 400))  # 400 experiments of 60 users, true mean .4
    found = evs.estimates(samples, key=("coverage",))
    covered = np.mean([e.low <= 0.4 <= e.high for e in found])
    assert 0.91 <= covered <= 0.98


def test_intervals_are_a_function_of_the_key() -> None:
    scores = np.random.default_rng(2).random(50)
    assert evs.estimate(scores, key=(1, "a")) == evs.estimate(scores, key=(1, "a"))
    assert evs.estimate(scores, key=(1, "a")) != evs.estimate(scores, key=(1, "b"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12))
def test_the_mean_is_always_inside(scores: list[float]) -> None:
    found = evs.estimate(scores, key=("inside",))
    assert found.mean == pytest.approx(np.mean(np.array(scores, dtype=np.float64)))
    assert found.low <= found.mean <= found.high
    assert not math.isnan(found.low + found.high)


def test_an_interval_of_equal_scores_is_a_point() -> None:
    assert evs.estimate([0.5] * 9, key=("point",)) == evs.Estimate(mean=0.5, low=0.5, high=0.5)


def test_permutation_test_agrees_with_the_exact_one() -> None:
    differences = np.array([0.3, 0.1, -0.2, 0.5, 0.0, 0.4, 0.25, -0.1, 0.15, 0.6])
    exact = stats.permutation_test(
        (differences, np.zeros(10)), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples"
    ).pvalue
    found = evs.permutation_p_values(differences[:, None], key=("exact",))[0]
    assert found == pytest.approx(exact, abs=0.012)


def test_permutation_test_is_honest_under_the_null_and_sees_an_effect() -> None:
    rng = np.random.default_rng(3)
    null = evs.permutation_p_values(rng.normal(0, 0.2, size=(40, 500)), key=("null",))
    assert 0.02 <= np.mean(null < 0.05) <= 0.08
    assert evs.permutation_p_values(rng.normal(0.2, 0.2, size=(40, 1)), key=("effect",))[0] < 0.001


def test_no_difference_at_all_has_p_one() -> None:
    assert evs.permutation_p_values(np.zeros((8, 1)), key=("zero",))[0] == 1.0


def test_holm_by_hand() -> None:
    assert evs.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evs.holm([0.6, 0.7]) == [1.0, 1.0]
    assert evs.holm([]) == []


def test_minimum_detectable_effect() -> None:
    # Sample size: a paired gain of .02 with a standard deviation of .2 needs about 780 users.
    differences = np.tile([-0.2, 0.2], 392)
    assert evs.minimum_detectable_effect(differences) == pytest.approx(0.02, rel=0.01)
    assert evs.minimum_detectable_effect(np.array([0.3])) is None


def test_the_minimum_detectable_effect_is_detected_in_four_runs_of_five() -> None:
    rng = np.random.default_rng(4)
    effect = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.2 / math.sqrt(100)
    shown = evs.permutation_p_values(rng.normal(effect, 0.2, size=(100, 500)), key=("power",)) < 0.05
    assert 0.74 <= np.mean(shown) <= 0.86


def test_comparison_is_paired_and_signed() -> None:
    rng = np.random.default_rng(5)
    base = rng.random(80)
    scores = {"a": base + 0.05 + rng.normal(0, 0.01, 80), "b": base}
    forth, back = evs.compare(scores, [("a", "b"), ("b", "a")], key=("paired",))
    assert forth.low < 0.05 < forth.high  # users differ by .3, yet the paired interval is narrow
    assert forth.high - forth.low < 0.01
    assert back.difference == pytest.approx(-forth.difference)
    assert forth.p_holm == pytest.approx(min(1.0, 2 * forth.p))
    assert evs.compare(scores, [], key=("none",)) == []


def test_ratio_of_means() -> None:
    rng = np.random.default_rng(6)
    headroom = rng.normal(0.2, 0.05, 200)
    found = evs.ratio_estimate(0.5 * headroom + rng.normal(0, 0.01, 200), headroom, key=("ratio",))
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.05
