"""Surrogate metrics: what a trigger search maximises in place of the metric that is served.

All are read off the label log-probabilities of one forward pass. PAP-REC's own is NDCG@5 + Hit@5 of the ranking; the
differentiable one is the log-likelihood of the relevant label among all (ListNet with one relevant candidate), whose
gradient proposes candidates. The ranking metrics are steps, so most triggers tie on most users; the likelihood moves
with every trigger, and rewards confidence where the ranking does not change. `both` is their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from promptailor.policies.white_box import Floats

Surrogate = Literal["ndcg+hit", "listwise", "both"]
SURROGATES: tuple[Surrogate, ...] = ("ndcg+hit", "listwise", "both")
CUTOFF, SERVED_CUTOFF = 5, 10


def ranks(log_probs: Sequence[Floats], relevant: Sequence[int]) -> Floats:
    """Return the place of each relevant label, from 1; ties fall to the label shown first, as in serving."""
    pairs = zip(log_probs, relevant, strict=True)
    return np.array([1 + np.sum(of > of[at]) + np.sum(of[:at] == of[at]) for of, at in pairs], dtype=float)


def ndcg_at(places: Floats, cutoff: int) -> Floats:
    """Return NDCG of one relevant item at each place: `policies.reward.ndcg` for arrays."""
    gains: Floats = np.where(places <= cutoff, 1.0 / np.log2(places + 1.0), 0.0)
    return gains


def score(log_probs: Sequence[Floats], relevant: Sequence[int], surrogate: Surrogate) -> Floats:
    """Return each case's surrogate, to be maximised.

    Args:
        log_probs: of the labels, one array per case.
        relevant: place of the relevant label in each.
        surrogate: which.
    """
    likelihood = np.array([of[place] for of, place in zip(log_probs, relevant, strict=True)])
    if surrogate == "listwise":
        return likelihood
    places = ranks(log_probs, relevant)
    ranking = ndcg_at(places, CUTOFF) + (places <= CUTOFF)
    return ranking if surrogate == "ndcg+hit" else ranking + likelihood


def served(log_probs: Sequence[Floats], relevant: Sequence[int]) -> Floats:
    """Return each case's NDCG@10, the metric that is reported."""
    return ndcg_at(ranks(log_probs, relevant), SERVED_CUTOFF)


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's correlation; None where there are too few pairs, or one side never changes."""
    if len(pairs) < 3:
        return None
    xs, ys = zip(*pairs, strict=True)
    if len(set(xs)) == 1 or len(set(ys)) == 1:
        return None
    from scipy.stats import spearmanr  # noqa: PLC0415 - takes half a second, and serving needs none

    return float(spearmanr(xs, ys).statistic)
