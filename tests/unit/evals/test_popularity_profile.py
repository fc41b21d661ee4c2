from __future__ import annotations

from collections import Counter

import pytest

from promptailor.evals.metrics import PRIMARY
from promptailor.evals.popularity_profile import popularity, popularity_profile
from promptailor.evals.records import UserRecord
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Item, RankRequest


def case(user: str, history: str) -> EvalCase:
    items = [Item(item_id=name, title=name) for name in history]
    request = RankRequest(
        user_id=user, history=tuple(items), candidates=(Item(item_id="z", title="z"),), domain="neutral"
    )
    return EvalCase(request=request, relevant_item_id="z", slot=0)


def record(user: int, relevant: str, score: float) -> UserRecord:
    return UserRecord(
        method="m", user_id=str(user), candidates=(relevant,), ranking=(relevant,), relevant_item_id=relevant, slot=0,
        shown_slot=None, metrics={PRIMARY: score}, llm_calls=0, invalid=False, rewrites=0, rejected_rewrites=0,
        prompt_digests=(), actions=(),
    )  # fmt: skip


def test_an_item_counts_once_per_user() -> None:
    assert popularity([case("u", "aab"), case("v", "bc")]) == Counter({"b": 2, "a": 1, "c": 1})


def test_bands_hold_about_as_many_users_each_and_the_least_popular_come_first() -> None:
    counts = {"rare": 1, "known": 5, "loved": 9}
    relevant = ["loved", "rare", "known", "new", "known", "loved"]
    scores = [1.0, 0.2, 0.5, 0.0, 0.7, 0.8]
    records = {str(n): record(n, *pair) for n, pair in enumerate(zip(relevant, scores, strict=True))}
    bands = popularity_profile(records, counts, n_bands=3, seed=0)
    assert [(b.low, b.high, b.n_users) for b in bands] == [(0, 1, 2), (5, 5, 2), (9, 9, 2)]
    assert [b.score.mean for b in bands] == pytest.approx([0.1, 0.6, 0.9])


def test_users_with_equally_popular_items_stay_together() -> None:
    records = {str(n): record(n, "same", 0.5) for n in range(7)}
    bands = popularity_profile(records, {"same": 3}, seed=0)
    assert [(b.low, b.high, b.n_users) for b in bands] == [(3, 3, 7)]
