"""The two null methods: rankings that know nothing, so that anything else can be told from nothing."""

from __future__ import annotations

from collections.abc import Sequence

from promptailor.evals.baselines.base import ItemScorer
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import RankRequest


class Identity(ItemScorer):
    """The candidates' canonical order; at chance, because the relevant item's slot is balanced over users.

    Where a retriever chose the candidates it is the retriever's own order, and what a ranking has to beat.
    """

    name = "identity"

    def scores(self, request: RankRequest) -> Sequence[float]:
        """Score every candidate alike."""
        return [0.0] * len(request.candidates)


class Random(ItemScorer):
    """A uniformly random order, keyed by (seed, user_id, item_id)."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def scores(self, request: RankRequest) -> Sequence[float]:
        """Draw one score per candidate."""
        return [uniform(self._seed, "random", request.user_id, item.item_id) for item in request.candidates]
