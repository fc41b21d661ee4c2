"""Item-based collaborative filtering (Sarwar et al., 2001)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from promptailor.evals.baselines.base import ItemScorer, Sequences
from promptailor.prompts.domain import Item, RankRequest


class ItemKNN(ItemScorer):
    """Candidates by the sum of their cosine similarities to the items of the history.

    Items are binary columns of the training user-item matrix. Departure: every item of the history is a neighbour, not
    the most similar k of the catalogue, because a handful of candidates leaves nothing to prune.
    """

    name = "itemknn"

    def __init__(self, sequences: Sequences) -> None:
        self._index = {item: i for i, item in enumerate(dict.fromkeys(i for s in sequences.values() for i in s))}
        rows = [row for row, sequence in enumerate(sequences.values()) for _ in set(sequence)]
        columns = [self._index[item] for sequence in sequences.values() for item in sorted(set(sequence))]
        shape = (len(sequences), len(self._index))
        matrix = sparse.csc_array((np.ones(len(rows)), (rows, columns)), shape=shape)
        norms = np.sqrt(matrix.sum(axis=0))  # of binary columns; no column is empty
        self._unit = sparse.csc_array(matrix @ sparse.diags_array(1.0 / norms))
        """Shape (n_users, n_items), columns of unit length."""

    def cosines(self, items: Sequence[Item], others: Sequence[Item]) -> NDArray[np.float64]:
        """Return the similarity of each item to each other one, shape (n_items, n_others); 0 where one is not known."""
        similarities = np.zeros((len(items), len(others)))
        rows = [row for row, item in enumerate(items) if item.item_id in self._index]
        columns = [column for column, item in enumerate(others) if item.item_id in self._index]
        left = self._unit[:, [self._index[items[row].item_id] for row in rows]]
        right = self._unit[:, [self._index[others[column].item_id] for column in columns]]
        similarities[np.ix_(rows, columns)] = (left.T @ right).toarray()
        return similarities

    def scores(self, request: RankRequest) -> Sequence[float]:
        """Return each candidate's similarity to the history; 0 where training never saw it."""
        history = [self._index[item.item_id] for item in request.history if item.item_id in self._index]
        known = [place for place, item in enumerate(request.candidates) if item.item_id in self._index]
        scores = np.zeros(len(request.candidates))
        columns = [self._index[request.candidates[place].item_id] for place in known]
        scores[known] = self._unit[:, columns].T @ self._unit[:, history].sum(axis=1)
        return scores.tolist()
