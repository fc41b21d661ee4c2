"""Zero-shot ranking by text: candidates whose titles mean about the same as the titles of the history."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from promptailor.evals.baselines.base import VectorScorer
from promptailor.evals.baselines.titles import TitleEmbeddings
from promptailor.prompts.domain import RankRequest

RECENT = 20
"""Titles of the history that are averaged."""


class TextEmbedding(VectorScorer):
    """Candidates by the cosine, up to a factor per user, of their title's embedding and the mean of the history's."""

    name = "text-embedding"

    def __init__(self, titles: TitleEmbeddings) -> None:
        super().__init__(titles.item_ids, titles.matrix)

    def query(self, request: RankRequest) -> NDArray[np.float32] | None:
        """Return the mean over the most recent items that the catalogue has."""
        rows = [row for item in request.history if (row := self._rows.get(item.item_id)) is not None]
        mean: NDArray[np.float32] | None = self._vectors[rows[-RECENT:]].mean(axis=0) if rows else None
        return mean
