"""NDCG: hand-computed values, chance, and bounds."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.reward import ndcg

TEN = [str(n) for n in range(10)]


@pytest.mark.parametrize(
    ("place", "gain"), enumerate([1.0, 0.631, 0.5, 0.431, 0.387, 0.356, 0.333, 0.315, 0.301, 0.289])
)
def test_one_relevant_item_by_place(place: int, gain: float) -> None:
    assert ndcg(TEN, {TEN[place]}, k=10) == pytest.approx(gain, abs=5e-4)
    assert ndcg(TEN, {TEN[place]}, k=place) == 0.0
    assert ndcg(TEN, {TEN[place]}, k=place + 1) == ndcg(TEN, {TEN[place]}, k=10)


def test_chance_with_ten_candidates() -> None:
    assert sum(ndcg(TEN, {target}, k=10) for target in TEN) / 10 == pytest.approx(0.4544, abs=1e-4)


def test_two_relevant_items() -> None:
    ideal = 1 + 1 / math.log2(3)
    assert ndcg(["a", "b", "c"], {"a", "c"}, k=3) == pytest.approx((1 + 0.5) / ideal)
    assert ndcg(["a", "b", "c"], {"a", "b"}, k=3) == pytest.approx(1.0)


def test_a_relevant_item_that_is_not_ranked_counts_in_the_ideal() -> None:
    assert ndcg(["a"], {"a", "missing"}, k=10) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ndcg(["a"], {"missing"}, k=10) == 0.0


def test_nothing_relevant_is_worth_nothing() -> None:
    assert ndcg(TEN, set(), k=10) == 0.0


@given(ranking=st.permutations(TEN), relevant=st.sets(st.sampled_from(TEN), min_size=1), k=st.integers(1, 12))
def test_bounds_and_the_ideal(ranking: list[str], relevant: set[str], k: int) -> None:
    assert 0.0 <= ndcg(ranking, relevant, k) <= 1.0 + 1e-12
    ideal = sorted(ranking, key=lambda item: item not in relevant)
    assert ndcg(ideal, relevant, k) == pytest.approx(1.0)


def test_swapping_a_relevant_item_up_never_hurts() -> None:
    for ranking in permutations("abcd"):
        for place in range(3):
            if ranking[place] not in "ab" and ranking[place + 1] in "ab":
                better = [*ranking[:place], ranking[place + 1], ranking[place], *ranking[place + 2 :]]
                assert ndcg(better, set("ab"), k=4) > ndcg(ranking, set("ab"), k=4)
