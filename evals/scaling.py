"""Made-up data sets of any size, to see what grows with users and what with items; they say nothing of quality."""

from __future__ import annotations

import numpy as np

from promptailor.evals.datasets import Dataset, DatasetSpec
from promptailor.prompts.domain import Item

HISTORY = 20
"""Interactions per user."""
ITEMS_PER_GROUP = 100
OWN_SHARE = 0.8
"""Share of a user's interactions that lies in the user's own group of items."""
SKEW = 0.8
"""Exponent of the items' popularity within their group and overall (Zipf)."""


def scaled_dataset(n_users: int, n_items: int, *, seed: int) -> Dataset:
    """Draw a data set whose users each favour one group of items, popular ones more than others.

    Args:
        n_users: how many users, with `HISTORY` distinct items each.
        n_items: how many items, in groups of about `ITEMS_PER_GROUP`.
        seed: seeds every draw.
    """
    rng = np.random.default_rng(seed)
    groups = np.array_split(rng.permutation(n_items), max(1, n_items // ITEMS_PER_GROUP))
    items = {str(n): Item(item_id=str(n), title=f"Item {n}") for n in range(n_items)}
    everywhere = _zipf(n_items)
    within = {size: _zipf(size) for size in {len(group) for group in groups}}
    sequences = {}
    for user in range(n_users):
        own = groups[rng.integers(len(groups))]
        # More than enough draws of both kinds; the first distinct ones make the sequence.
        drawn = np.where(
            rng.random(4 * HISTORY) < OWN_SHARE,
            own[rng.choice(len(own), size=4 * HISTORY, p=within[len(own)])],
            rng.choice(n_items, size=4 * HISTORY, p=everywhere),
        )
        distinct = dict.fromkeys(drawn.tolist())
        sequences[f"u{user}"] = tuple(map(str, list(distinct)[:HISTORY]))
    return Dataset(
        spec=DatasetSpec(name=f"scaled-{n_users}x{n_items}", domain="neutral", time="order", k_core=0),
        items=items,
        sequences=sequences,
        times={user_id: tuple(map(float, range(len(ids)))) for user_id, ids in sequences.items()},
    )


def _zipf(n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return popularity shares of n items, falling with the rank."""
    weights = np.arange(1, n + 1) ** -SKEW
    shares: np.ndarray[tuple[int], np.dtype[np.float64]] = weights / weights.sum()
    return shares
