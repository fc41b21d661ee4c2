"""The most popular first: the baseline that a personalised method has to beat before anything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from promptailor.evals.baselines.base import ItemScorer, Sequences
from promptailor.prompts.domain import RankRequest


class Popularity(ItemScorer):
    """Candidates by number of training interactions."""

    name = "popularity"

    def __init__(self, sequences: Sequences) -> None:
        self._counts = Counter(item_id for sequence in sequences.values() for item_id in sequence)

    def scores(self, request: RankRequest) -> Sequence[float]:
        """Return each candidate's count; 0 where training never saw it."""
        return [self._counts[item.item_id] for item in request.candidates]
