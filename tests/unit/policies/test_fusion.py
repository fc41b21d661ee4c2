"""Fusion: a permutation always, the published formula, and weights that find the steps worth listening to."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.fusion import SHRINKAGE_USERS, fit_weights, fuse
from promptailor.policies.reward import ndcg
from promptailor.prompts.errors import InputError

ITEMS = list("abcdefgh")

some_rankings = st.lists(st.permutations(ITEMS), min_size=1, max_size=6)


@given(rankings=some_rankings)
def test_last_is_the_last_ranking(rankings: list[list[str]]) -> None:
    assert fuse(rankings, "last", canonical=ITEMS) == rankings[-1]


@given(rankings=some_rankings, weights=st.lists(st.floats(0, 10), min_size=6, max_size=6))
def test_a_fused_ranking_is_a_permutation(rankings: list[list[str]], weights: list[float]) -> None:
    assert sorted(fuse(rankings, "rrf", canonical=ITEMS)) == ITEMS
    assert sorted(fuse(rankings, "weighted", canonical=ITEMS, weights=weights)) == ITEMS


@given(rankings=some_rankings)
def test_rrf_follows_the_papers_formula(rankings: list[list[str]]) -> None:
    scores = {item: sum(1 / (60 + r.index(item) + 1) for r in rankings) for item in ITEMS}
    fused = fuse(rankings, "rrf", canonical=ITEMS)
    assert all(scores[a] >= scores[b] - 1e-9 for a, b in pairwise(fused))


def test_two_middling_places_can_beat_a_first_and_a_last_one() -> None:
    rankings = [["a", "b", "c", "d"], ["d", "b", "c", "a"], ["c", "b", "d", "a"]]
    assert fuse(rankings, "rrf", canonical=list("abcd")) == ["b", "c", "d", "a"]


@given(ranking=st.permutations(ITEMS), n=st.integers(1, 4))
def test_agreement_stays(ranking: list[str], n: int) -> None:
    assert fuse([ranking] * n, "rrf", canonical=ITEMS) == ranking


@given(rankings=some_rankings, order=st.randoms(use_true_random=False))
def test_rrf_does_not_depend_on_the_order_of_the_steps(rankings: list[list[str]], order: random.Random) -> None:
    shuffled = rankings[:]
    order.shuffle(shuffled)
    assert fuse(shuffled, "rrf", canonical=ITEMS) == fuse(rankings, "rrf", canonical=ITEMS)


def test_ties_are_broken_by_canonical_order() -> None:
    rankings = [["a", "b", "c"], ["c", "b", "a"]]
    assert fuse(rankings, "rrf", canonical=["c", "a", "b"])[:2] == ["c", "a"]
    assert fuse(rankings, "rrf", canonical=["a", "c", "b"])[:2] == ["a", "c"]


@given(rankings=some_rankings, only=st.integers(0, 5))
def test_a_weight_of_one_alone_is_that_steps_ranking(rankings: list[list[str]], only: int) -> None:
    weights = [float(step == only % len(rankings)) for step in range(len(rankings))]
    assert fuse(rankings, "weighted", canonical=ITEMS, weights=weights) == rankings[only % len(rankings)]


def test_weights_of_steps_that_were_not_taken_are_left_out() -> None:
    assert fuse([["b", "a"]], "weighted", canonical=["a", "b"], weights=[1.0, 5.0]) == ["b", "a"]


@pytest.mark.parametrize(
    ("rankings", "kind", "message"),
    [
        ([], "rrf", "there is no ranking"),
        ([["a", "b"], ["a", "a"]], "rrf", "step 2 is no permutation"),
        ([["a"]], "last", "step 1 is no permutation"),
        ([["a", "b"], ["b", "a"]], "weighted", "needs 2 weights"),
    ],
)
def test_what_cannot_be_fused_is_refused(rankings: list[list[str]], kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fuse(rankings, kind, canonical=["a", "b"], weights=[1.0])  # type: ignore[arg-type]


def users(n: int, *, good_step: int | None, n_steps: int = 4) -> tuple[list[list[list[str]]], list[set[str]]]:
    """Users whose relevant item one step tends to rank high; every other step is random."""
    rng = random.Random(0)
    rankings, relevant = [], []
    for _ in range(n):
        target = rng.choice(ITEMS)
        steps = [rng.sample(ITEMS, len(ITEMS)) for _ in range(n_steps)]
        if good_step is not None:
            steps[good_step].remove(target)
            steps[good_step].insert(rng.choice((0, 0, 1)), target)
        rankings.append(steps)
        relevant.append({target})
    return rankings, relevant


def test_fitting_finds_the_step_worth_listening_to() -> None:
    rankings, relevant = users(200, good_step=2)
    weights = fit_weights(rankings[:100], relevant[:100], canonical_per_user=[ITEMS] * 100)
    assert max(range(4), key=weights.__getitem__) == 2

    def unseen(weights: list[float]) -> float:
        pairs = zip(rankings[100:], relevant[100:], strict=True)
        return sum(ndcg(fuse(r, "weighted", canonical=ITEMS, weights=weights), t, k=8) for r, t in pairs) / 100

    assert unseen(weights) > unseen([1.0] * 4) + 0.1


def test_weights_sum_to_one_and_shrink_towards_uniform() -> None:
    for n in (1, 10, 100):
        rankings, relevant = users(n, good_step=2)
        weights = fit_weights(rankings, relevant, canonical_per_user=[ITEMS] * n)
        assert sum(weights) == pytest.approx(1.0)
        assert min(weights) >= SHRINKAGE_USERS / (n + SHRINKAGE_USERS) / 4 - 1e-12


def test_steps_that_all_say_the_same_keep_uniform_weights() -> None:
    rankings, relevant = users(20, good_step=0, n_steps=1)
    same = [[steps[0]] * 3 for steps in rankings]
    assert fit_weights(same, relevant, canonical_per_user=[ITEMS] * 20) == pytest.approx([1 / 3] * 3)


def test_users_with_different_numbers_of_steps_are_refused() -> None:
    with pytest.raises(InputError, match="same number of steps"):
        fit_weights([[ITEMS], [ITEMS, ITEMS]], [{"a"}, {"a"}], canonical_per_user=[ITEMS] * 2)
    with pytest.raises(InputError, match="at least one"):
        fit_weights([], [], canonical_per_user=[])
