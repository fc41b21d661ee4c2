from __future__ import annotations

import math

import pytest

from promptailor.evals import metrics

RANKING = [f"i{place}" for place in range(12)]

# place of the relevant item (from 0): ndcg@1, ndcg@5, ndcg@10, mrr@5, mrr@10, hr@1, hr@5, worked out by hand
TABLE = [
    (0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    (1, 0.0, 0.6309297536, 0.6309297536, 0.5, 0.5, 0.0, 1.0),
    (2, 0.0, 0.5, 0.5, 1 / 3, 1 / 3, 0.0, 1.0),
    (4, 0.0, 0.3868528072, 0.3868528072, 0.2, 0.2, 0.0, 1.0),
    (5, 0.0, 0.0, 0.3562071871, 0.0, 1 / 6, 0.0, 0.0),
    (9, 0.0, 0.0, 0.2890648263, 0.0, 0.1, 0.0, 0.0),
    (10, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"place{row[0]}")
def test_every_measure_by_hand(row: tuple[float, ...]) -> None:
    names = ("ndcg@1", "ndcg@5", "ndcg@10", "mrr@5", "mrr@10", "hr@1", "hr@5")
    expected = dict(zip(names, row[1:], strict=True)) | {"mean_rank": row[0] + 1}
    assert metrics.score(RANKING, f"i{row[0]}") == pytest.approx(expected)


def test_a_relevant_item_that_is_missing_scores_zero_everywhere_and_comes_behind_the_last() -> None:
    scores = metrics.score(RANKING, "elsewhere")
    assert scores.pop("mean_rank") == len(RANKING) + 1
    assert set(scores.values()) == {0.0}


def test_chance_for_ten_candidates() -> None:
    by_hand = sum(1 / math.log2(place + 2) for place in range(10)) / 10
    assert metrics.chance(10)["ndcg@10"] == pytest.approx(by_hand) == pytest.approx(0.4543559)
    assert metrics.chance(10)["mean_rank"] == pytest.approx(5.5)
    assert metrics.chance(10)["hr@5"] == pytest.approx(0.5)
    assert metrics.chance(20)["ndcg@1"] == pytest.approx(0.05)
