"""Fusion: the rankings of several steps become one.

`last` is what the RPP paper serves. `rrf` is reciprocal rank fusion: Cormack, Clarke and Buettcher, "Reciprocal rank
fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009. `weighted` is the same sum with a
weight per step, learned on training users.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from promptailor.policies.reward import ndcg
from promptailor.prompts.errors import InputError

FusionKind = Literal["last", "rrf", "weighted"]

RRF_K = 60
"""The constant of the paper: how little the difference between the first places counts."""

SHRINKAGE_USERS = 50
"""Learned weights count as much as uniform ones at this many training users."""

_GRID = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
_MAX_PASSES = 5


def fuse(
    rankings: Sequence[Sequence[str]], kind: FusionKind, *, canonical: Sequence[str], weights: Sequence[float] = ()
) -> list[str]:
    """Combine rankings of the same candidates into one.

    Args:
        rankings: item ids, best first, one ranking per step.
        kind: `last`, `rrf` or `weighted`.
        canonical: the candidates in canonical order, which breaks ties.
        weights: for `weighted`, one weight per step; those of steps that were not taken are left out.

    Raises:
        InputError: there is no ranking, one is no permutation of the candidates, or a weight is missing.
    """
    if not rankings:
        raise InputError("fusion: there is no ranking to fuse")
    for step, ranking in enumerate(rankings, 1):
        if len(ranking) != len(canonical) or set(ranking) != set(canonical):
            raise InputError(f"fusion: the ranking of step {step} is no permutation of the candidates")
    if kind == "last":
        return list(rankings[-1])
    if kind == "rrf":
        return _weighted_rrf(rankings, [1.0] * len(rankings), canonical)
    if len(weights) < len(rankings):
        raise InputError(
            f"fusion: 'weighted' needs {len(rankings)} weights, one per step, and has {len(weights)}; use 'rrf'"
        )
    return _weighted_rrf(rankings, weights, canonical)


def fit_weights(
    rankings_per_user: Sequence[Sequence[Sequence[str]]],
    relevant_per_user: Sequence[Collection[str]],
    *,
    canonical_per_user: Sequence[Sequence[str]],
) -> list[float]:
    """Learn one weight per step from training users.

    Coordinate ascent on the users' mean NDCG, which is piecewise constant in the weights, from the best of the uniform
    weights and the single steps; then shrinkage towards uniform, because few users cannot tell many steps apart.

    Args:
        rankings_per_user: shape (users, steps, candidates): item ids, best first.
        relevant_per_user: the relevant items of each user.
        canonical_per_user: the candidates of each user in canonical order.

    Returns:
        Weights that sum to one, shape (steps,).
    """
    lengths = {len(rankings) for rankings in rankings_per_user}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError("fusion: weights are learned from users who all took the same number of steps, at least one")
    n_steps = lengths.pop()

    def mean_ndcg(weights: Sequence[float]) -> float:
        users = zip(rankings_per_user, relevant_per_user, canonical_per_user, strict=True)
        gains = [ndcg(_weighted_rrf(r, weights, c), relevant, k=len(c)) for r, relevant, c in users]
        return sum(gains) / len(gains)

    uniform = [1.0] * n_steps
    single_steps = [[float(step == only) for step in range(n_steps)] for only in range(n_steps)]
    best = max((uniform, *single_steps), key=mean_ndcg)  # the first of equals, so uniform unless a step beats it
    for _ in range(_MAX_PASSES):
        before = best
        for step in range(n_steps):
            trials = [[*best[:step], value, *best[step + 1 :]] for value in _GRID]
            best = max((best, *(trial for trial in trials if any(trial))), key=mean_ndcg)
        if best == before:
            break
    trust = len(rankings_per_user) / (len(rankings_per_user) + SHRINKAGE_USERS)
    return [trust * weight / sum(best) + (1.0 - trust) / n_steps for weight in best]


def _weighted_rrf(rankings: Sequence[Sequence[str]], weights: Sequence[float], canonical: Sequence[str]) -> list[str]:
    scores = dict.fromkeys(canonical, 0.0)
    for ranking, weight in zip(rankings, weights, strict=False):  # a run may stop before the last step
        for rank, item_id in enumerate(ranking, 1):
            scores[item_id] += weight / (RRF_K + rank)
    return sorted(canonical, key=lambda item_id: -round(scores[item_id], 12))  # equal sums differ in their last bits
