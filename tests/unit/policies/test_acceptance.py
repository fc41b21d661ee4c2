"""Acceptance: changes without effect stay out, over a whole run; real ones get in; the published rule keeps half."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from promptailor.app.backends.planted import draw_place
from promptailor.evals.planted import chance, gains
from promptailor.policies.acceptance import ALPHA, AcceptanceTest, accept_on_batch, sign_flip_p

N_NO_OPS = 400
HELD_OUT = 40


def scores(rng: random.Random, n_users: int, level: float) -> list[float]:
    """What users of a planted world score: noise around a level that only a better prompt would raise."""
    return [gains(10)[draw_place(level, 10, rng)] for _ in range(n_users)]


@pytest.fixture(scope="module")
def no_ops() -> list[tuple[list[float], list[float]]]:
    """Rewrites that change the prompt's text, hence the noise, and nothing else: some 400 of them."""
    rng = random.Random(5)
    levels = [chance(10) + 0.3 * n / N_NO_OPS for n in range(N_NO_OPS)]
    return [(scores(rng, HELD_OUT, level), scores(rng, HELD_OUT, level)) for level in levels]


def test_of_400_no_op_rewrites_at_most_28_are_accepted(no_ops: list[tuple[list[float], list[float]]]) -> None:
    """Each is the first of a run of its own, with all of alpha to spend on it."""
    spent = [AcceptanceTest(alpha=2 * ALPHA).judge(*pair, key=("no-op", n)) for n, pair in enumerate(no_ops)]
    assert {verdict.alpha for verdict in spent} == {ALPHA}
    assert 4 <= sum(verdict.accepted for verdict in spent) <= 28


def test_runs_of_no_ops_accept_none_in_most_runs(no_ops: list[tuple[list[float], list[float]]]) -> None:
    runs = [AcceptanceTest() for _ in range(40)]
    for n, pair in enumerate(no_ops):
        runs[n % 40].judge(*pair, key=("run", n))
    assert sum(any(verdict.accepted for verdict in run.verdicts) for run in runs) <= 5  # 2 expected at alpha = .05


def test_the_published_rule_keeps_about_half_of_them(no_ops: list[tuple[list[float], list[float]]]) -> None:
    kept = [accept_on_batch(before[:10], after[:10], key=(n,)).accepted for n, (before, after) in enumerate(no_ops)]
    assert 160 <= sum(kept) <= 240


def test_a_real_improvement_is_accepted() -> None:
    rng = random.Random(2)
    verdict = AcceptanceTest().judge(scores(rng, 60, 0.5), scores(rng, 60, 0.75), key=("real",))
    assert verdict.accepted
    assert verdict.low > 0.1
    worse = AcceptanceTest().judge(scores(rng, 60, 0.75), scores(rng, 60, 0.5), key=("worse",))
    assert not worse.accepted
    assert worse.p == pytest.approx(1.0, abs=0.01)


@settings(max_examples=10, deadline=None)
@given(accepted=st.lists(st.booleans(), max_size=30))
def test_rejections_never_spend_more_than_alpha(accepted: list[bool]) -> None:
    """Alpha that no accepted change handed on adds up to at most alpha, whatever was accepted in between."""
    test, spent = AcceptanceTest(), 0.0
    before, better, same = [0.0] * 40, [1.0] * 40, [0.0] * 40
    for n, improves in enumerate(accepted):
        verdict = test.judge(before, better if improves else same, key=(n,))
        assert verdict.alpha is not None
        assert verdict.accepted == (improves and verdict.p is not None and verdict.p <= verdict.alpha)
        spent += 0.0 if verdict.accepted else verdict.alpha
    assert spent <= ALPHA


def test_the_p_value_agrees_with_scipys() -> None:
    differences = np.random.default_rng(3).normal(0.15, 1.0, 50)
    oracle = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", alternative="greater", n_resamples=20_000, rng=1
    )
    assert sign_flip_p(differences, key=("a",)) == pytest.approx(float(oracle.pvalue), abs=0.01)


def test_no_difference_at_all_is_no_evidence() -> None:
    verdict = AcceptanceTest().judge([0.5, 0.7], [0.5, 0.7], key=("same",))
    assert (verdict.p, verdict.accepted, verdict.low, verdict.high) == (1.0, False, 0.0, 0.0)


def test_where_the_number_of_rounds_is_known_each_gets_the_same_share() -> None:
    test = AcceptanceTest(rounds=4)
    same, better = [0.0] * 40, [1.0] * 40
    alphas = [test.judge(same, better if n == 1 else same, key=(n,)).alpha for n in range(5)]
    assert alphas == pytest.approx([ALPHA / 4, ALPHA / 4, ALPHA / 2, ALPHA / 4, 0.0])
