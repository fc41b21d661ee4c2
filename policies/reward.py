"""The one definition of NDCG: the reward of training and the metric of evaluation."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def ndcg(ranking: Sequence[str], relevant_item_ids: Collection[str], k: int) -> float:
    """Return NDCG@k of one user with binary relevance.

    Args:
        ranking: item ids, best first.
        relevant_item_ids: the relevant ones; ids that are not in `ranking` count in the ideal.
        k: cut-off, in places.

    >>> ndcg(["b", "a"], {"a"}, k=10)
    0.6309297535714575
    """
    gain = sum(1.0 / math.log2(place + 2) for place, item in enumerate(ranking[:k]) if item in relevant_item_ids)
    ideal = sum(1.0 / math.log2(place + 2) for place in range(min(k, len(relevant_item_ids))))
    return gain / ideal if ideal else 0.0
