"""Keyed draws: a function of the key alone, uniform over keys."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.draws import sample_index, uniform

keys = st.lists(st.integers() | st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


@given(key=keys)
def test_a_draw_is_a_function_of_its_key(key: list[int | str]) -> None:
    assert uniform(*key) == uniform(*key)
    assert 0.0 <= uniform(*key) < 1.0


def test_draws_are_the_same_in_another_process() -> None:
    code = "from promptailor.policies.draws import uniform; print(uniform(0, 'user', 3))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(other.stdout) == uniform(0, "user", 3)


def test_every_part_of_the_key_counts() -> None:
    draws = {uniform(seed, user, step) for seed in range(5) for user in "abcde" for step in range(5)}
    assert len(draws) == 125
    assert uniform("ab", "c") != uniform("a", "bc")


def test_draws_are_uniform() -> None:
    n, bins = 10_000, 10
    counts = Counter(int(uniform(0, user) * bins) for user in range(n))
    chi2 = sum((counts[b] - n / bins) ** 2 / (n / bins) for b in range(bins))
    assert chi2 < 27.9  # 99.9 % quantile at 9 degrees of freedom; the keys are fixed, so this cannot flicker


def test_indices_follow_the_probabilities() -> None:
    probabilities, n = [0.5, 0.0, 0.3, 0.2], 10_000
    counts = Counter(sample_index(probabilities, 0, user) for user in range(n))
    assert counts[1] == 0
    for index, probability in enumerate(probabilities):
        assert counts[index] / n == pytest.approx(probability, abs=0.02)


@given(weights=st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda w: sum(w) > 1e-6), key=st.integers())
def test_an_impossible_index_is_never_drawn(weights: list[float], key: int) -> None:
    probabilities = [weight / sum(weights) for weight in weights]
    assert probabilities[sample_index(probabilities, key)] > 0.0
