"""An additive model of the reward: what each pattern's choice is worth, to everybody and to this user.

    reward = intercept + user effect + sum over patterns k of [ b_k(choice) + trust_k g_k(choice) . f_k(user) ]

Fitted in closed form as a mixed model: ridge regression with a random intercept per user, which takes out how hard a
user's target is. `trust_k` in [0, 1] comes from stacked regression (Breiman, 1996): how far the personal part, fitted
without a user's fold, predicts that user's rewards. Where personalising a pattern does not pay it is near 0, and what
is left is the best single prompt. The factored critics of RPP and the one-shot bandit share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import lsq_linear

Array = NDArray[np.float64]

N_FOLDS = 5
EFFECT_VARIANCE = 0.003
"""Prior variance of what one choice is worth, shared and personal alike, in squared NDCG: typically .05 or so."""
INTERCEPT_VARIANCE = 1.0
LENGTH_CENTRES_PER_OCTAVE = 1.5
LENGTH_WIDTH = 0.5
"""Width of the bumps that history lengths are judged by, in octaves of the length plus one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveModel:
    """The fitted model."""

    intercept: float
    shared: tuple[Array, ...]
    """b_k, shape (n_codes_k,)."""
    personal: tuple[Array, ...]
    """trust_k g_k, shape (n_codes_k, n_features_k)."""
    trust: Array
    """Shape (n_patterns,)."""
    noise: float
    """Variance of a user's rewards around the model."""
    precision_root: Array
    """Cholesky factor of the posterior precision times `noise`; see `sample`."""

    def sample(self, n: int, seed: int) -> list[tuple[tuple[Array, ...], tuple[Array, ...]]]:
        """Draw n times (shared, personal) from the posterior, for Thompson sampling."""
        white = np.random.default_rng(seed).standard_normal((len(self.precision_root), n))
        deviations = solve_triangular(self.precision_root, white, lower=True, trans="T").T * self.noise**0.5
        draws = []
        for deviation in deviations:
            shared, personal = _split(deviation, [b.shape for b in self.shared], [g.shape for g in self.personal])
            draws.append(
                (
                    tuple(b + d for b, d in zip(self.shared, shared, strict=True)),
                    tuple(g + t * d for g, t, d in zip(self.personal, self.trust, personal, strict=True)),
                )
            )
        return draws


def length_codes(max_length: int) -> Array:
    """Return smooth bumps over the lengths 0 to `max_length`, shape (max_length + 1, n_codes), rows summing to one.

    They make neighbouring lengths be judged alike. Bumps are evenly spaced in log2(1 + length): 2 differs from 1 about
    as much as 20 from 13.
    """
    places = np.log2(1.0 + np.arange(max_length + 1))
    centres = np.linspace(0.0, places[-1], max(2, round(places[-1] * LENGTH_CENTRES_PER_OCTAVE) + 1))
    bumps = np.exp(-0.5 * ((places[:, None] - centres) / LENGTH_WIDTH) ** 2)
    bumps[bumps < 1e-3] = 0.0  # nearly nothing, squared often enough, becomes denormal numbers: a hundred times slower
    normalised: Array = bumps / bumps.sum(axis=1, keepdims=True)
    return normalised


def fit_additive(
    codes: Sequence[Array], features: Sequence[Array], rewards: Array, users: NDArray[np.int64]
) -> AdditiveModel:
    """Fit the model.

    Args:
        codes: per pattern what was chosen, shape (n, n_codes_k): one-hot rows, or smooth ones that sum to one.
        features: per pattern what is known of the user, shape (n, n_features_k), of any scale.
        rewards: shape (n,).
        users: shape (n,); whose reward it was, as numbers 0, 1, ...; folds are made of whole users.
    """
    problem, noise = _pose(codes, features, rewards, users)
    trust = _trust(problem, users % N_FOLDS)
    root = np.asarray(np.linalg.cholesky(problem.x.T @ problem.x + np.diag(problem.penalty)), np.float64)
    weights = cho_solve((root, True), problem.x.T @ problem.y)
    for weight, part in zip(trust, problem.parts, strict=True):
        weights[part] *= weight
    # What everybody shares is fitted again, beside the personal part as far as it is trusted.
    n = problem.n_shared
    x, left = problem.x[:, :n], problem.y - problem.x[:, n:] @ weights[n:]
    weights[:n] = np.linalg.solve(x.T @ x + np.diag(problem.penalty[:n]), x.T @ left)
    shapes = [(c.shape[1], f.shape[1]) for c, f in zip(codes, features, strict=True)]
    shared, personal = _split(weights, [shape[:1] for shape in shapes], shapes)
    return AdditiveModel(
        intercept=float(weights[0]), shared=shared, personal=personal, trust=trust, noise=noise, precision_root=root
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """A ridge regression: columns of x are the intercept, the patterns' codes, and codes times features."""

    x: Array
    y: Array
    penalty: Array
    n_shared: int
    """Columns of the intercept and the codes."""
    parts: list[slice]
    """Columns of each pattern's personal part."""


def _pose(
    codes: Sequence[Array], features: Sequence[Array], rewards: Array, users: NDArray[np.int64]
) -> tuple[_Problem, float]:
    """Return the regression, freed of the users' own intercepts, and the variance of its noise."""
    blocks = [(c[:, :, None] * f[:, None, :]).reshape(len(c), -1) for c, f in zip(codes, features, strict=True)]
    design = np.hstack([np.ones((len(rewards), 1)), *codes, *blocks])
    edges = list(accumulate((block.shape[1] for block in (*codes, *blocks)), initial=1))
    n_shared, parts = edges[len(codes)], [slice(*edge) for edge in pairwise(edges[len(codes) :])]

    noise, user_variance = _variances(design[:, :n_shared], rewards, users)
    penalty = np.full(design.shape[1], noise / EFFECT_VARIANCE)
    penalty[0] = noise / INTERCEPT_VARIANCE
    for part, known in zip(parts, features, strict=True):
        penalty[part] *= max(float((known**2).sum(axis=1).mean()), 1e-12)  # the prior is on effects, not on weights
    ratio = user_variance / noise
    x, y = _quasi_demean(design, users, ratio), _quasi_demean(rewards, users, ratio)
    return _Problem(x, y, penalty, n_shared, parts), noise


def _trust(problem: _Problem, folds: NDArray[np.int64]) -> Array:
    """Return how far each personal part, fitted without a fold, predicts it: a weight in [0, 1].

    Shrunk by how uncertain the weight itself is (positive-part James-Stein); 0 where there is one fold only.
    """
    x, y, n = problem.x, problem.y, problem.n_shared
    if np.ptp(folds) == 0:
        return np.zeros(len(problem.parts))
    grams = [(x[folds == fold].T @ x[folds == fold], x[folds == fold].T @ y[folds == fold]) for fold in range(N_FOLDS)]
    gram, moment = sum(g for g, _ in grams) + np.diag(problem.penalty), sum(m for _, m in grams)
    predicted, rest = np.zeros((len(y), len(problem.parts))), np.zeros(len(y))
    for fold, (fold_gram, fold_moment) in enumerate(grams):
        rows, weights = folds == fold, np.linalg.solve(gram - fold_gram, moment - fold_moment)
        rest[rows] = y[rows] - x[rows, :n] @ weights[:n]
        predicted[rows] = np.stack([x[rows, part] @ weights[part] for part in problem.parts], axis=1)
    found = lsq_linear(predicted, rest, bounds=(0.0, 1.0))
    precision = predicted.T @ predicted + 1e-9 * np.eye(len(problem.parts))  # a pattern may have nothing personal yet
    variance = 2 * found.cost / len(rest) * np.diag(np.linalg.inv(precision))
    shrunk: Array = found.x * np.maximum(0.0, 1.0 - variance / np.maximum(found.x**2, 1e-12))
    return shrunk


def _variances(shared_design: Array, rewards: Array, users: NDArray[np.int64]) -> tuple[float, float]:
    """Estimate the variance within users and that of the users' own intercepts, by the method of moments."""
    gram = shared_design.T @ shared_design + np.eye(shared_design.shape[1])
    residuals = rewards - shared_design @ np.linalg.solve(gram, shared_design.T @ rewards)
    counts = np.bincount(users)
    means = np.bincount(users, residuals) / np.maximum(counts, 1)
    within = float(((residuals - means[users]) ** 2).sum() / max(len(rewards) - np.count_nonzero(counts), 1))
    within = max(within, 1e-4)
    seen = counts > 0
    between = float(means[seen].var() - within * (1 / counts[seen]).mean())
    return within, max(between, 0.0)


def _quasi_demean(values: Array, users: NDArray[np.int64], ratio: float) -> Array:
    """Subtract from each row a share of its user's mean: generalised least squares with a random user intercept."""
    counts = np.bincount(users)
    share = 1.0 - 1.0 / np.sqrt(1.0 + counts * ratio)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, users, values)
    weights = share / np.maximum(counts, 1)
    demeaned: Array = values - (sums.T * weights).T[users]
    return demeaned


def _split(
    weights: Array, shared: Sequence[tuple[int, ...]], personal: Sequence[tuple[int, ...]]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Cut a weight vector, past its intercept, into the shared and the personal parts of the given shapes."""
    shapes = [*shared, *personal]
    edges = list(accumulate((int(np.prod(shape)) for shape in shapes), initial=1))
    parts = [weights[start:end].reshape(shape) for (start, end), shape in zip(pairwise(edges), shapes, strict=True)]
    return tuple(parts[: len(shared)]), tuple(parts[len(shared) :])
