"""What can be concluded from per-user scores: intervals, paired tests, and what a run was able to see at all.

Users are the unit of resampling throughout. Every function is a function of its arguments alone: the resampling is
seeded by `key`, so a report made twice from the same records is the same report.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Model

Array = NDArray[np.float64]
Key = tuple[str | int, ...]

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
N_BOOTSTRAP = 2_000
N_PERMUTATIONS = 10_000
_BATCH_ENTRIES = 4_000_000
"""Floats that one batch of resamples may hold, so that memory does not grow with the number of users."""


class Estimate(Model):
    """A mean over users and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class Comparison(Model):
    """Method `a` against method `b` on the same users."""

    a: str
    b: str
    difference: float
    """Mean over users of `a` minus `b`."""
    low: float
    high: float
    p: float
    """Two-sided paired permutation test."""
    p_holm: float
    """The same, corrected for every comparison of its family."""
    mde: float | None
    """Smallest true difference that this run would have shown with 80 % power at alpha = .05; None for one user."""
    planned: bool = False
    """Whether it was named before the run: planned comparisons are a family of their own, all others another."""


def generator(*key: str | int) -> np.random.Generator:
    """Return a local generator whose stream is a function of the key alone."""
    return np.random.default_rng(int(uniform(*key) * 2.0**56))


def estimates(scores: Array, *, key: Key) -> list[Estimate]:
    """Return mean and BCa bootstrap interval of each column of `scores`, shape (n_users, n_columns)."""
    means = scores.mean(axis=0)
    varies = np.ptp(scores, axis=0) > 0
    low, high = means.copy(), means.copy()
    if varies.any():
        low[varies], high[varies] = _bca(scores[:, varies], key)
    # BCa shifts the interval by the skew and rounding can push a bound past the mean: the mean is always inside.
    low, high = np.minimum(low, means), np.maximum(high, means)
    return [
        Estimate(mean=m, low=a, high=b) for m, a, b in zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def estimate(scores: Sequence[float] | Array, *, key: Key) -> Estimate:
    """Return mean and BCa bootstrap interval of one score per user."""
    return estimates(np.asarray(scores, dtype=np.float64)[:, None], key=key)[0]


def ratio_estimate(numerator: Array, denominator: Array, *, key: Key) -> Estimate:
    """Return the ratio of two means over the same users, users resampled jointly (percentile interval)."""
    ratio = float(numerator.mean() / denominator.mean())
    result = stats.bootstrap(
        (numerator, denominator),
        lambda top, bottom, axis: top.mean(axis=axis) / bottom.mean(axis=axis),
        n_resamples=N_BOOTSTRAP,
        batch=max(1, _BATCH_ENTRIES // len(numerator)),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=generator(*key),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    return Estimate(mean=ratio, low=min(low, ratio), high=max(high, ratio))


def permutation_p_values(differences: Array, *, key: Key) -> Array:
    """Return two-sided p-values of "the mean is zero" per column of paired differences, shape (n_users, n_columns).

    Signs are flipped at random, user by user (Fisher's paired permutation test); the observed assignment counts as one
    of the permutations, so no p-value is zero (Phipson and Smyth, 2010).
    """
    rng = generator(*key)
    observed = np.abs(differences.sum(axis=0))
    tolerance = 1e-12 * np.abs(differences).sum(axis=0)  # equal sums that differ by rounding count as equal
    extreme = np.ones(differences.shape[1])
    batch = max(1, _BATCH_ENTRIES // len(differences))
    for start in range(0, N_PERMUTATIONS, batch):
        shape = (min(batch, N_PERMUTATIONS - start), len(differences))
        signs = 2.0 * rng.integers(2, size=shape) - 1.0
        extreme += (np.abs(signs @ differences) >= observed - tolerance).sum(axis=0)
    return extreme / (N_PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = running
    return adjusted


def minimum_detectable_effect(differences: Array) -> float | None:
    """Return the true mean difference that a two-sided paired z-test at `ALPHA` finds with probability `POWER`.

    None for a single user, whose differences have no spread to estimate.
    """
    if len(differences) < 2:
        return None
    z = float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))
    return z * float(np.std(differences, ddof=1)) / float(np.sqrt(len(differences)))


def compare(
    scores: Mapping[str, Array], pairs: Sequence[tuple[str, str]], *, key: Key, planned: bool = False
) -> list[Comparison]:
    """Compare methods pairwise on the same users.

    Args:
        scores: one score per user for each method, shape (n_users,), users in the same order.
        pairs: names (a, b); each is reported as a minus b, and Holm's correction is over all of them.
        key: what seeds the resampling.
        planned: whether these pairs were named before the run.
    """
    if not pairs:
        return []
    differences = np.stack([scores[a] - scores[b] for a, b in pairs], axis=1)
    intervals = estimates(differences, key=(*key, "bootstrap"))
    p_values = permutation_p_values(differences, key=(*key, "permutation")).tolist()
    return [
        Comparison(
            a=a,
            b=b,
            difference=interval.mean,
            low=interval.low,
            high=interval.high,
            p=p,
            p_holm=p_holm,
            mde=minimum_detectable_effect(differences[:, column]),
            planned=planned,
        )
        for column, ((a, b), interval, p, p_holm) in enumerate(
            zip(pairs, intervals, p_values, holm(p_values), strict=True)
        )
    ]


def _bca(scores: Array, key: Key) -> tuple[Array, Array]:
    with warnings.catch_warnings():
        # A handful of users can make BCa degenerate; its bounds are then NaN and the percentile interval stands in.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (scores,),
            np.mean,
            n_resamples=N_BOOTSTRAP,
            batch=max(1, _BATCH_ENTRIES // scores.size),
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=generator(*key),
        )
    tails = np.quantile(result.bootstrap_distribution, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)
    low, high = np.asarray(result.confidence_interval.low), np.asarray(result.confidence_interval.high)
    return np.where(np.isnan(low), tails[0], low), np.where(np.isnan(high), tails[1], high)
