"""The measures of one user's ranking.

A relevant item that is not in the ranking scores zero everywhere, and its rank is one below the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptailor.policies.reward import ndcg

PRIMARY = "ndcg@10"
"""The measure that comparisons, plots and verdicts are about."""
MEAN_RANK = "mean_rank"
"""Its mean over users is what AGP reports beside NDCG@10; the only measure of which less is better."""


def reciprocal_rank(ranking: Sequence[str], relevant_item_id: str, k: int) -> float:
    """Return 1 / rank of the relevant item (rank from 1), or 0 below place `k`; its mean over users is MRR@k."""
    top = list(ranking[:k])
    return 1.0 / (top.index(relevant_item_id) + 1) if relevant_item_id in top else 0.0


def hit(ranking: Sequence[str], relevant_item_id: str, k: int) -> float:
    """Return 1 where the relevant item is among the first `k`, else 0; its mean over users is HR@k."""
    return float(relevant_item_id in ranking[:k])


def rank(ranking: Sequence[str], relevant_item_id: str) -> int:
    """Return the rank of the relevant item, from 1; one below the last where it is missing."""
    found = list(ranking)
    return found.index(relevant_item_id) + 1 if relevant_item_id in found else len(found) + 1


def score(ranking: Sequence[str], relevant_item_id: str) -> dict[str, float]:
    """Return every measure of one user's ranking (item ids, best first), keyed `name@k`, and the rank."""
    relevant = {relevant_item_id}
    return {
        **{f"ndcg@{k}": ndcg(ranking, relevant, k) for k in (1, 5, 10)},
        **{f"mrr@{k}": reciprocal_rank(ranking, relevant_item_id, k) for k in (5, 10)},
        **{f"hr@{k}": hit(ranking, relevant_item_id, k) for k in (1, 5)},
        MEAN_RANK: float(rank(ranking, relevant_item_id)),
    }


def chance(n_candidates: int) -> dict[str, float]:
    """Return the expected measures of a uniformly random ranking of `n_candidates`, one of them relevant."""
    ids = [str(place) for place in range(n_candidates)]
    scores = [score(ids, relevant) for relevant in ids]
    return {name: sum(s[name] for s in scores) / n_candidates for name in scores[0]}
