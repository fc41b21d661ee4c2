from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.evals import metrics
from promptailor.evals.records import UserRecord
from promptailor.evals.step_bound import gain_of_rank, step_gains, step_profile

CANDIDATES = tuple("abcdefghij")


def record(user: str, step_ranks: tuple[int | None, ...], served: int) -> UserRecord:
    """A user whose relevant item is `a`, served at a given place."""
    others = [item for item in CANDIDATES if item != "a"]
    ranking = (*others[: served - 1], "a", *others[served - 1 :])
    return UserRecord(
        method="m", user_id=user, candidates=CANDIDATES, ranking=ranking, relevant_item_id="a", slot=0, shown_slot=0,
        metrics=metrics.score(ranking, "a"), llm_calls=1, invalid=False, rewrites=0, rejected_rewrites=0,
        prompt_digests=(), actions=(), step_ranks=step_ranks,
    )  # fmt: skip


@given(rank=st.integers(1, 30))
def test_the_gain_of_a_rank_is_the_measure_of_its_ranking(rank: int) -> None:
    ids = [str(place) for place in range(1, 31)]
    assert gain_of_rank(rank) == pytest.approx(metrics.score(ids, str(rank))[metrics.PRIMARY])


def test_an_item_that_is_not_there_gains_nothing() -> None:
    assert gain_of_rank(None) == 0.0


def test_the_bound_takes_each_users_best_step_so_far() -> None:
    profile = step_profile([record("u", (3, 1, 7), served=7), record("v", (1, 3, 3), served=3)], seed=0)
    assert profile is not None
    third, seventh = 1 / math.log2(4), 1 / math.log2(8)
    assert profile.served.mean == pytest.approx((seventh + third) / 2)
    assert [step.mean for step in profile.alone] == pytest.approx(
        [(third + 1) / 2, (1 + third) / 2, (seventh + third) / 2]
    )
    assert [step.mean for step in profile.best_so_far] == pytest.approx([(third + 1) / 2, 1, 1])


def test_who_stopped_early_keeps_the_last_step() -> None:
    gains = step_gains([record("u", (3,), served=3), record("v", (3, None, 1), served=1)])
    assert gains == pytest.approx(np.array([[0.5, 0.5, 0.5], [0.5, 0.0, 1.0]]))


@given(ranks=st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=5), min_size=1, max_size=6))
def test_the_bound_never_falls_and_is_above_every_step(ranks: list[list[int]]) -> None:
    profile = step_profile([record(str(n), tuple(r), served=r[-1]) for n, r in enumerate(ranks)], seed=0)
    assert profile is not None
    best = [step.mean for step in profile.best_so_far]
    assert best == sorted(best)
    assert all(bound >= alone.mean - 1e-12 for bound, alone in zip(best, profile.alone, strict=True))
    assert best[-1] >= profile.served.mean - 1e-12


def test_methods_without_steps_have_no_profile() -> None:
    assert step_profile([record("u", (), served=1)], seed=0) is None
    assert step_profile([record("u", (1, 2), served=1), record("v", (), served=1)], seed=0) is None
