"""The teachers: what each reasoning sentence of the catalogue means, as a simple ranking rule over training histories.

A strategy scores candidates from the shown history alone, since that is all the language model sees. All similarities
are dot products of truncated-SVD factors: dense, small for any catalogue, and deterministic (fixed start vector).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from promptailor.evals.datasets import Dataset

Vectors: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]

DIMENSION = 64
TASTE_DIMENSION = 16
"""PureSVD (Cremonesi et al. 2010) ranks best with few factors."""
RECENT_WINDOW = 5
_TRANSITION_WEIGHTS = (1.0, 0.5, 0.25)  # how much the first, second and third follower count
_TRANSITION_DECAY = 0.7  # weight of an interaction against the one after it
_N_KINDS = 24
_KMEANS_ROUNDS = 20


class Teachers:
    """Scores candidates under each strategy.

    Args:
        sequences: training histories as item indices, oldest first.
        categories: per item index its categories; where no item has any, clusters of co-occurring items stand in.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], categories: Sequence[Sequence[str]]) -> None:
        n_items = len(categories)
        seen = _incidence(sequences, n_items)
        self.counts: Vectors = np.asarray(seen.sum(axis=0), dtype=np.float32)
        self.log_popularity: Vectors = np.log1p(self.counts)
        _, _, items = _factorise(seen)
        self.taste: Vectors = items[:, :TASTE_DIMENSION]
        # Scaling by the square root of the degrees before the SVD makes neighbours of items that share users whatever
        # their popularity; unit length then makes the dot product a cosine.
        degree = np.sqrt(np.maximum(self.counts, 1.0))
        active = np.sqrt(np.maximum(seen.sum(axis=1), 1.0))
        scaled = csr_array(seen.multiply(1.0 / active[:, None]).multiply(1.0 / degree[None, :]))
        _, singular, items = _factorise(scaled)
        self.likeness: Vectors = _unit(items * singular)
        source, singular, target = _factorise(_transitions(sequences, n_items))
        self.leaves: Vectors = source * singular
        self.enters: Vectors = target * degree[:, None]
        self.kinds: Vectors = _kinds(categories, self.likeness)
        self._rules: Mapping[str, Callable[[Indices, Indices], Vectors]] = {
            "next_item": self._next_item,
            "popularity": self._popularity,
            "whole_history": self._whole_history,
            "latest": self._latest,
            "collaborative": self._collaborative,
            "categories": self._categories,
            "blend": self._blend,
            "recent_window": self._recent_window,
            "nearest": self._nearest,
        }

    @classmethod
    def of(cls, dataset: Dataset) -> Teachers:
        """Learn from a data set's training sequences; item indices are positions in `dataset.items`."""
        index = {item_id: i for i, item_id in enumerate(dataset.items)}
        sequences = [[index[i] for i in sequence] for sequence in dataset.training_sequences().values()]
        return cls(sequences, [item.categories for item in dataset.items.values()])

    @property
    def strategies(self) -> tuple[str, ...]:
        """Every strategy that can be taught."""
        return tuple(self._rules)

    def scores(self, strategy: str, history: Sequence[int], candidates: Sequence[int]) -> Vectors:
        """Score candidates, higher is better.

        Args:
            strategy: one of `strategies`.
            history: item indices as shown, oldest first; without any, every strategy falls back to popularity.
            candidates: item indices.

        Returns:
            Shape (len(candidates),).
        """
        shown, choices = np.asarray(history, dtype=np.int64), np.asarray(candidates, dtype=np.int64)
        if not len(shown):
            return self._popularity(shown, choices)
        return self._rules[strategy](shown, choices)

    def factors(self, size: int) -> Vectors:
        """Return what is known of each item as vectors of at most `size`: the principal part of all factors."""
        parts = (self.likeness, self.kinds, self.leaves, self.enters)
        stacked = np.concatenate([part / part.std() for part in parts], axis=1)
        left, singular, _ = np.linalg.svd(stacked - stacked.mean(axis=0), full_matrices=False)
        return np.asarray(left[:, :size] * singular[:size], dtype=np.float32)

    def neighbours(self, item: int, n: int) -> list[int]:
        """Return the items most alike to one, itself left out, best first."""
        likeness = _dot(self.likeness, self.likeness[item])
        likeness[item] = -np.inf
        return [int(i) for i in np.argsort(-likeness, kind="stable")[:n]]

    def central(self, history: Sequence[int], n: int) -> list[int]:
        """Return the items of a history that are most alike to all of it, best first."""
        shown = np.asarray(history, dtype=np.int64)
        order = np.argsort(-self._whole_history(shown, shown), kind="stable")
        return [int(i) for i in shown[order[:n]]]

    def _popularity(self, history: Indices, candidates: Indices) -> Vectors:
        return self.log_popularity[candidates]

    def _next_item(self, history: Indices, candidates: Indices) -> Vectors:
        weights = _TRANSITION_DECAY ** np.arange(len(history) - 1, -1, -1, dtype=np.float32)
        return _dot(self.enters[candidates], _dot(weights, self.leaves[history]))

    def _whole_history(self, history: Indices, candidates: Indices) -> Vectors:
        return _dot(self.likeness[candidates], self.likeness[history].mean(axis=0))

    def _recent_window(self, history: Indices, candidates: Indices) -> Vectors:
        return self._whole_history(history[-RECENT_WINDOW:], candidates)

    def _latest(self, history: Indices, candidates: Indices) -> Vectors:
        return self._whole_history(history[-1:], candidates)

    def _nearest(self, history: Indices, candidates: Indices) -> Vectors:
        return np.asarray(_dot(self.likeness[candidates], self.likeness[history].T).max(axis=1))

    def _collaborative(self, history: Indices, candidates: Indices) -> Vectors:
        return _dot(self.taste[candidates], self.taste[history].sum(axis=0))

    def _categories(self, history: Indices, candidates: Indices) -> Vectors:
        return _dot(self.kinds[candidates], self.kinds[history].mean(axis=0))

    def _blend(self, history: Indices, candidates: Indices) -> Vectors:
        parts = (self._next_item, self._collaborative, self._categories, self._popularity)
        return np.asarray(np.sum([_standardise(part(history, candidates)) for part in parts], axis=0))


def _incidence(sequences: Sequence[Sequence[int]], n_items: int) -> csr_array:
    rows = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    columns = np.fromiter((i for s in sequences for i in s), dtype=np.int64)
    seen = csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(sequences), n_items))
    seen.data[:] = 1.0  # repeated interactions count once
    return seen


def _transitions(sequences: Sequence[Sequence[int]], n_items: int) -> csr_array:
    """Count which items follow which within three steps, scaled by the square roots of both degrees."""
    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    for sequence in sequences:
        for lag, weight in enumerate(_TRANSITION_WEIGHTS, 1):
            rows += sequence[:-lag]
            columns += sequence[lag:]
            weights += [weight] * max(len(sequence) - lag, 0)
    values = np.asarray(weights, dtype=np.float32)
    leaving = np.sqrt(np.maximum(np.bincount(rows, values, n_items), 1.0))
    entering = np.sqrt(np.maximum(np.bincount(columns, values, n_items), 1.0))
    scaled = (values / (leaving[rows] * entering[columns])).astype(np.float32)
    return csr_array((scaled, (rows, columns)), shape=(n_items, n_items))


def _factorise(matrix: csr_array) -> tuple[Vectors, Vectors, Vectors]:
    """Truncated SVD: row factors, singular values, column factors, largest first, with a deterministic start."""
    size = min(matrix.shape)
    rank = min(DIMENSION, size - 1)
    left, singular, right = svds(matrix, k=rank, v0=np.ones(size, dtype=matrix.dtype))
    order = np.argsort(-singular, kind="stable")
    return (
        left[:, order].astype(np.float32),
        singular[order].astype(np.float32),
        right[order].T.astype(np.float32),
    )


def _kinds(categories: Sequence[Sequence[str]], likeness: Vectors) -> Vectors:
    """Return unit-length category vectors, rare categories weighing more; clusters where there are no categories."""
    names = sorted({name for of_item in categories for name in of_item})
    if not names:
        return np.eye(_N_KINDS, dtype=np.float32)[_clusters(likeness)]
    index = {name: i for i, name in enumerate(names)}
    kinds = np.zeros((len(categories), len(names)), dtype=np.float32)
    for item, of_item in enumerate(categories):
        kinds[item, [index[name] for name in of_item]] = 1.0
    return _unit(kinds * np.log(len(categories) / np.maximum(kinds.sum(axis=0), 1.0)))


def _clusters(vectors: Vectors) -> Indices:
    """Return a cluster per row: spherical k-means from evenly spaced rows."""
    centres = vectors[np.linspace(0, len(vectors) - 1, _N_KINDS).astype(np.int64)]
    for _ in range(_KMEANS_ROUNDS):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        centres = _unit(np.stack([vectors[nearest == k].sum(axis=0) for k in range(_N_KINDS)]))
    return np.asarray(nearest, dtype=np.int64)


def _dot(left: Vectors, right: Vectors) -> Vectors:
    return np.asarray(left @ right, dtype=np.float32)


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9), dtype=np.float32)


def _standardise(scores: Vectors) -> Vectors:
    return np.asarray((scores - scores.mean()) / (scores.std() + 1e-9), dtype=np.float32)
