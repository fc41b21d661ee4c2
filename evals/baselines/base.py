"""What a method is to an evaluation: requests in, rankings out, and never a label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from promptailor.prompts.domain import RankRequest

Sequences = Mapping[str, Sequence[str]]
"""Training interactions: item ids per user id, oldest first, without the items that evaluation holds out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedUser:
    """A method's answer to one request."""

    user_id: str
    ranking: tuple[str, ...]
    """Item ids, best first: a permutation of the candidates."""
    llm_calls: int = 0
    """Model answers the ranking took, cached ones included, so that a repeat of the run reports the same cost."""
    invalid: bool = False
    """Whether an answer had to be repaired."""
    rewrites: int = 0
    """Sentences that a refiner was asked to rewrite, over all steps."""
    rejected_rewrites: int = 0
    """Rewrites that failed a guard, so that the sentence stayed as it was."""
    prompt_digests: tuple[str, ...] = ()
    """One per step."""
    actions: tuple[dict[str, int], ...] = ()
    """The chosen action of each pattern, one mapping per step."""
    seconds: float = 0.0
    """Time the user took, where the method knows it; the runner times whole chunks itself."""
    shown_slots: tuple[str, ...] = ()
    """Item ids in the order the last prompt showed them; empty where nothing was shown."""
    step_rankings: tuple[tuple[str, ...], ...] = ()
    """What every step alone would have answered, item ids, best first; empty for methods without steps."""


class Method(Protocol):
    """Something that ranks candidates."""

    @property
    def name(self) -> str:
        """The method's name in records and reports."""
        ...

    @property
    def llm(self) -> bool:
        """Whether it needs a model."""
        ...

    @property
    def train_users(self) -> tuple[str, ...]:
        """Users whose targets it has seen; they are left out of its evaluation."""
        ...

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        """Rank each request's candidates; answers come in the order of the requests."""
        ...


class ItemScorer(ABC):
    """Base of the baselines: one score per candidate, best first, ties in the candidates' canonical order."""

    llm = False
    train_users: tuple[str, ...] = ()

    @abstractmethod
    def scores(self, request: RankRequest) -> Sequence[float]:
        """Return one score per candidate, in canonical order; higher is better."""

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        """Rank each request's candidates by score."""
        return [RankedUser(user_id=r.user_id, ranking=self._ranking(r)) for r in requests]

    def _ranking(self, request: RankRequest) -> tuple[str, ...]:
        scored = zip(self.scores(request), request.candidates, strict=True)
        return tuple(item.item_id for _, item in sorted(scored, key=lambda pair: -pair[0]))


class VectorScorer(ItemScorer):
    """Base of the baselines that score an item by its vector times the request's: whole catalogues at once.

    An item without a vector, because training never saw it, comes last; where nothing is known of the user, all others
    are alike.
    """

    def __init__(self, item_ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Wrap item vectors of shape (n_items, dim), rows in the order of `item_ids`."""
        self._rows = {item_id: row for row, item_id in enumerate(item_ids)}
        self._vectors = vectors

    @abstractmethod
    def query(self, request: RankRequest) -> NDArray[np.float32] | None:
        """Return the vector that items are multiplied by, shape (dim,); None where nothing is known of the user."""

    def scores(self, request: RankRequest) -> Sequence[float]:
        """Return each candidate's product, which does not depend on the other candidates."""
        rows = np.array([self._rows.get(item.item_id, -1) for item in request.candidates])
        scores = np.where(rows < 0, -np.inf, 0.0)
        if (query := self.query(request)) is not None:
            # Not a matrix product: that may round a row differently in another place.
            scores[rows >= 0] = (self._vectors[rows[rows >= 0]] * query).sum(axis=1)
        products: list[float] = scores.tolist()
        return products
