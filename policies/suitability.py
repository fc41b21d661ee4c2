"""What a change of the prompt gains for whom: a rule learned on some users and judged on others.

A sentence may be better for some users and worse for others, and then it is better for nobody on average although a
policy that chooses per user would gain from it. The rule predicts a user's gain linearly from the user's embedding; how
far it may differ between users is chosen by leaving one out, down to not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PENALTIES = (1.0, 10.0, 100.0, 1_000.0, np.inf)
"""Ridge penalties that leaving one out chooses from, on features of unit variance; the last gives all one answer."""


@dataclass(frozen=True, slots=True)
class GainRule:
    """What a change gains for a user."""

    centre: Array
    scale: Array
    weights: Array
    mean: float
    """Gain that is predicted for the average user."""

    def predict(self, features: Array) -> Array:
        """Return the predicted gains, shape (n,), of users with features of shape (n, d)."""
        predicted: Array = self.mean + (features - self.centre) / self.scale @ self.weights
        return predicted


def learn_gains(features: Array, gains: Array) -> GainRule:
    """Learn the rule by ridge regression; the intercept is not shrunk.

    Args:
        features: shape (n, d).
        gains: what each of these users gained, shape (n,).
    """
    centre, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    x, y = (features - centre) / scale, gains - gains.mean()
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    best, weights = np.inf, np.zeros(x.shape[1])
    for penalty in PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty)
        leverage = (left**2) @ shrunk + 1.0 / len(y)
        residuals = (y - left @ (shrunk * (left.T @ y))) / np.maximum(1.0 - leverage, 1e-6)
        if (error := float(residuals @ residuals)) < best:
            best = error
            safe = np.where(singular > 0, singular, 1.0)
            weights = right.T @ (np.where(singular > 0, shrunk / safe, 0.0) * (left.T @ y))
    return GainRule(centre=centre, scale=scale, weights=weights, mean=float(gains.mean()))
