"""Words of a user's own, shrunk toward the shared ones.

A user has one item to choose on, and one item is mostly noise: a word that moves it up may do nothing for the next. So
the gain d_uw of word w over the shared word, on user u's item, is believed only as far as such gains repeat. Training
users have two held-out items, which tell how far: with mu_w the mean gain of w, the covariance of d_uw - mu_w over the
two items is the variance of what is truly personal, and its share of the whole variance the reliability rho. The
estimate is the posterior mean of a normal model (empirical Bayes),

    theta_uw = min(mu_w, 0) + rho * (d_uw - mu_w),

and the user keeps the shared word unless some theta_uw is above 0. A mu_w above 0 is left to the next shared round. Rho
is the lower end of its one-sided 95 % interval over users, 0 at least: without a signal nobody gets a word of their
own. PAP-REC keeps whatever raises the one item: that is rho = 1 and mu = 0 (`shrinkage="none"`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from promptailor.policies.white_box import Floats

Shrinkage = Literal["eb", "none"]
_ONE_SIDED_95 = 1.645
_FEWEST_USERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrinker:
    """What gains on one item are worth."""

    reliability: float
    """rho, from 0 to 1."""
    means: Mapping[int, float] = field(default_factory=dict)
    """mu_w; words that training users were not asked about count as 0."""

    @classmethod
    def fit(cls, words: Sequence[int], first: Floats, second: Floats) -> Shrinker:
        """Estimate from training users.

        Args:
            words: what stands for each.
            first: gain over the shared word on one held-out item, shape (users, words).
            second: the same on the other item.
        """
        means = (first.mean(axis=0) + second.mean(axis=0)) / 2
        n_users = len(first)
        if n_users < _FEWEST_USERS:
            return cls(reliability=0.0, means=dict(zip(words, means.tolist(), strict=True)))
        a, b = first - first.mean(axis=0), second - second.mean(axis=0)
        variance = float((a**2 + b**2).mean() / 2)
        products = (a * b).mean(axis=1)
        lower = products.mean() - _ONE_SIDED_95 * products.std(ddof=1) / np.sqrt(n_users)
        reliability = min(max(float(lower) / variance, 0.0), 1.0) if variance > 0 else 0.0
        return cls(reliability=reliability, means=dict(zip(words, means.tolist(), strict=True)))

    @classmethod
    def none(cls) -> Shrinker:
        """Believe every gain, as PAP-REC does."""
        return cls(reliability=1.0)

    def choose(self, gains: Mapping[int, float]) -> int | None:
        """Return the word to give a user, None for the shared one.

        Args:
            gains: of each word over the shared one, on the user's one item.
        """
        best, chosen = 0.0, None
        for word, gain in gains.items():
            mean = self.means.get(word, 0.0)
            worth = min(mean, 0.0) + self.reliability * (gain - mean)
            if worth > best:
                best, chosen = worth, word
        return chosen
