"""What predicts ratings without a model: means, and biases (Koren, Bell and Volinsky, 2009).

What is shared, the global mean and what items are worth, is fitted to `training_ratings`. What is the user's own is
read from the request's history, as a prompt reads it: known and new users take one path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from promptailor.evals.ratings import PredictedRating, RatingCase
from promptailor.graph.rollout import Progress
from promptailor.prompts.ratings import HIGHEST, LOWEST, MIDDLE, RatingRequest

Array = NDArray[np.float64]
Ratings = Mapping[str, Sequence[tuple[str, float]]]
"""Training ratings: items and what the user gave them, per user id."""

STRENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Of the regularisation, among which validation users choose, for users and items apart."""
_SWEEPS = 100
_TOLERANCE = 1e-4


class RatingScorer(ABC):
    """Base of the baselines; a `RatingMethod`."""

    name: str

    @abstractmethod
    def score(self, request: RatingRequest) -> float:
        """Return the expected rating, on the scale or beyond it."""

    def predict(self, requests: Sequence[RatingRequest], progress: Progress | None = None) -> list[PredictedRating]:
        """Predict each request's rating, cut to the scale."""
        if progress:
            progress(len(requests))
        return [PredictedRating(user_id=r.user_id, rating=min(max(self.score(r), LOWEST), HIGHEST)) for r in requests]


class GlobalMean(RatingScorer):
    """The mean of all training ratings."""

    name = "global-mean"

    def __init__(self, ratings: Ratings) -> None:
        self._mean = _mean(ratings)

    def score(self, request: RatingRequest) -> float:
        """Return the mean."""
        return self._mean


class UserMean(RatingScorer):
    """The mean of the user's own ratings; the global one for a user without any."""

    name = "user-mean"

    def __init__(self, ratings: Ratings) -> None:
        self._mean = _mean(ratings)

    def score(self, request: RatingRequest) -> float:
        """Return the mean of the request's history."""
        own = [rated.rating for rated in request.history]
        return sum(own) / len(own) if own else self._mean


class ItemMean(RatingScorer):
    """The mean of the item's training ratings; the global one for an item without any."""

    name = "item-mean"

    def __init__(self, ratings: Ratings) -> None:
        by_item: dict[str, list[float]] = {}
        for rated in ratings.values():
            for item_id, rating in rated:
                by_item.setdefault(item_id, []).append(rating)
        self._means = {item_id: sum(found) / len(found) for item_id, found in by_item.items()}
        self._mean = _mean(ratings)

    def score(self, request: RatingRequest) -> float:
        """Return the item's mean."""
        return self._means.get(request.item.item_id, self._mean)


@dataclass(frozen=True, kw_only=True)
class Bias(RatingScorer):
    """mu + b_u + b_i, least squares with a ridge of their own on users' and on items' biases."""

    name = "bias"

    mean: float
    items: Mapping[str, float]
    """b_i; an item that training never saw has none."""
    user_strength: float
    item_strength: float

    def score(self, request: RatingRequest) -> float:
        """Return the mean and both biases; b_u is the ridge estimate from the request's history."""
        left = [rated.rating - self.mean - self.items.get(rated.item.item_id, 0.0) for rated in request.history]
        user = sum(left) / (self.user_strength + len(left))
        return self.mean + user + self.items.get(request.item.item_id, 0.0)


class BiasFit:
    """Fits biases to one set of ratings, each time starting from the last fit: a neighbour's is nearly the next one's.

    Alternates closed-form updates of users and items until no item's bias moves by more than `_TOLERANCE`.
    """

    def __init__(self, ratings: Ratings) -> None:
        """Lay the ratings out as arrays."""
        item_ids = [item_id for rated in ratings.values() for item_id, _ in rated]
        self._places = {item_id: place for place, item_id in enumerate(dict.fromkeys(item_ids))}
        self._items = np.array([self._places[item_id] for item_id in item_ids], dtype=np.int64)
        self._users = np.repeat(np.arange(len(ratings)), [len(rated) for rated in ratings.values()])
        self._mean = _mean(ratings)
        values = [rating for rated in ratings.values() for _, rating in rated]
        self._left = np.array(values, dtype=np.float64) - self._mean
        self._of_items = np.zeros(len(self._places))

    def fit(self, *, user_strength: float, item_strength: float) -> Bias:
        """Fit with these strengths of the ridge."""
        of_items = self._of_items
        for _ in range(_SWEEPS):
            of_users = _ridge(self._users, self._left - of_items[self._items], user_strength)
            before, of_items = of_items, _ridge(self._items, self._left - of_users[self._users], item_strength)
            if np.abs(of_items - before).max(initial=0.0) < _TOLERANCE:
                break
        self._of_items = of_items
        return Bias(
            mean=self._mean,
            items=dict(zip(self._places, of_items.tolist(), strict=True)),
            user_strength=user_strength,
            item_strength=item_strength,
        )


def select_bias(ratings: Ratings, validation: Sequence[RatingCase]) -> Bias:
    """Fit with the strengths that predict the validation users' second-to-last ratings best (squared error)."""
    fit = BiasFit(ratings)
    fits = [fit.fit(user_strength=u, item_strength=i) for u, i in product(STRENGTHS, STRENGTHS)]

    def error(bias: Bias) -> float:
        predicted = bias.predict([case.request for case in validation])
        return sum((p.rating - case.rating) ** 2 for p, case in zip(predicted, validation, strict=True))

    return min(fits, key=error)


def _ridge(groups: NDArray[np.int64], left: Array, strength: float) -> Array:
    """Return each group's regularised mean of what is left to explain."""
    means: Array = np.bincount(groups, left) / (strength + np.bincount(groups))
    return means


def _mean(ratings: Ratings) -> float:
    values = [rating for rated in ratings.values() for _, rating in rated]
    return sum(values) / len(values) if values else MIDDLE
