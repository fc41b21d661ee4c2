"""Null controls: what a method must lose when the thing it claims to use is taken away.

Identity, random and popularity are methods of their own (`evals.baselines`). The two here are made from a method.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptailor.evals import metrics
from promptailor.evals.baselines.base import Method, RankedUser
from promptailor.evals.records import UserRecord
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import RankRequest

SWAPPED = "swapped-history:"
SHUFFLED = "shuffled-labels:"


class SwappedHistory:
    """A method that is given another user's history; what it keeps of its score, the history did not earn."""

    def __init__(self, method: Method, cases: Sequence[EvalCase], *, seed: int) -> None:
        """Pair users up.

        Args:
            method: the method to control.
            cases: every case of the evaluation: donors are drawn from all of them, so that chunks do not matter.
            seed: keys the order in which each user's history goes to the next one.
        """
        self._method = method
        users = sorted((case.request for case in cases), key=lambda r: uniform(seed, "swapped-history", r.user_id))
        donors = [*users[1:], *users[:1]]
        self._donors = {user.user_id: donor for user, donor in zip(users, donors, strict=True)}

    @property
    def name(self) -> str:
        """`swapped-history:` and the method's name."""
        return f"{SWAPPED}{self._method.name}"

    @property
    def llm(self) -> bool:
        """As the method."""
        return self._method.llm

    @property
    def train_users(self) -> tuple[str, ...]:
        """As the method."""
        return self._method.train_users

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        """Rank each request's own candidates by another user's history."""
        return self._method.rank([r.model_copy(update={"history": self._donors[r.user_id].history}) for r in requests])


def shuffle_label(record: UserRecord, *, seed: int) -> UserRecord:
    """Return the same answer scored against a label drawn among the candidates: at chance, unless labels leaked.

    The draw is the same for every method. Where a retriever missed the relevant item there is no label to move.
    """
    if record.slot is None:
        return record.model_copy(update={"method": f"{SHUFFLED}{record.method}"})
    slot = int(uniform(seed, "shuffled-labels", record.user_id) * len(record.candidates))
    label = record.candidates[slot]
    return record.model_copy(
        update={
            "method": f"{SHUFFLED}{record.method}",
            "relevant_item_id": label,
            "slot": slot,
            "shown_slot": None,
            "step_ranks": (),
            "metrics": metrics.score(record.ranking, label),
        }
    )
