"""Synthetic cases and methods for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from promptailor.evals.baselines.base import RankedUser
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import BudgetExceededError


def item(item_id: str) -> Item:
    return Item(item_id=item_id, title=f"Title of {item_id}")


def cases_of(n_users: int, n_candidates: int = 10) -> list[EvalCase]:
    """Users u0, u1, ... with slots dealt in turn; no item belongs to two users."""
    cases = []
    for user in range(n_users):
        slot = (7 * user) % n_candidates
        ids = [f"u{user}-{'target' if place == slot else place}" for place in range(n_candidates)]
        request = RankRequest(
            user_id=f"u{user}",
            history=(item(f"u{user}-past"),),
            candidates=tuple(item(i) for i in ids),
            domain="neutral",
        )
        cases.append(EvalCase(request=request, relevant_item_id=f"u{user}-target", slot=slot))
    return cases


class ScriptedMethod:
    """A pretended model: finds the target among the first places with a given probability.

    It knows the target from its name alone, the way a good recommender would know it from the title. It counts what it
    is asked, and stops on a budget.
    """

    def __init__(self, name: str, skill: float, *, budget: int | None = None, train_users: Sequence[str] = ()) -> None:
        self.name, self.llm, self.train_users = name, True, tuple(train_users)
        self.skill, self.budget = skill, budget
        self.answered: set[str] = set()
        """Users whose answer is in the pretended response store."""
        self.requests: list[RankRequest] = []

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        self.requests += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: RankRequest) -> RankedUser:
        user = request.user_id
        if user not in self.answered:
            if self.budget is not None and len(self.answered) >= self.budget:
                raise BudgetExceededError(f"budget of {self.budget} calls is spent; raise --budget")
            self.answered.add(user)
        shown = sorted((c.item_id for c in request.candidates), key=lambda i: uniform("shown", user, i))
        past = request.history[-1].item_id if request.history else ""
        knows = past.startswith(f"{user}-") and uniform("knows", user) < self.skill
        ranking = sorted(shown, key=lambda i: not (knows and i.endswith("target")))
        return RankedUser(
            user_id=user,
            ranking=tuple(ranking),
            llm_calls=1,
            invalid=uniform("invalid", user) < 0.1,
            prompt_digests=("0" * 16,),
            actions=({"role_playing": int(3 * uniform("role", user)), "history_records": 1, "history_length": 2},),
            shown_slots=tuple(shown),
        )


@pytest.fixture(scope="session")
def make_cases() -> Callable[..., list[EvalCase]]:
    return cases_of


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedMethod]:
    return ScriptedMethod
