"""Made-up data sets of any size."""

from __future__ import annotations

from collections import Counter

import pytest

from promptailor.evals.protocol import MIN_INTERACTIONS
from promptailor.evals.scaling import HISTORY, scaled_dataset


@pytest.mark.parametrize(("n_users", "n_items"), [(50, 30), (200, 1_000)])
def test_a_scaled_data_set_has_its_size_and_distinct_items(n_users: int, n_items: int) -> None:
    dataset = scaled_dataset(n_users, n_items, seed=1)
    assert (len(dataset.sequences), len(dataset.items)) == (n_users, n_items)
    for sequence in dataset.sequences.values():
        assert len(set(sequence)) == len(sequence) <= HISTORY
        assert len(sequence) >= MIN_INTERACTIONS
        assert set(sequence) <= dataset.items.keys()
    assert (
        dataset.digest
        == scaled_dataset(n_users, n_items, seed=1).digest
        != scaled_dataset(n_users, n_items, seed=2).digest
    )


def test_a_few_items_are_popular() -> None:
    counts = Counter(i for s in scaled_dataset(500, 1_000, seed=0).sequences.values() for i in s)
    top = sum(count for _, count in counts.most_common(100))
    assert top > 2 * 0.1 * sum(counts.values())
