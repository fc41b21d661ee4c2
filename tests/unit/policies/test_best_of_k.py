"""Best-of-k keeps the best of k random prompts."""

from __future__ import annotations

import pytest

from promptailor.policies.base import Decision, Replies
from promptailor.policies.best_of_k import BestOfK, BestOfKConfig
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import Catalogue


@pytest.fixture
def policy(catalogue: Catalogue) -> BestOfK:
    """Eight prompts."""
    return BestOfK(space=PromptSpace(catalogue), config=BestOfKConfig(k=8))


def attempts(policy: BestOfK, user: str = "u", n_history: int = 30) -> tuple[Decision, ...]:
    return next(policy.search(key=(0, user), n_history=n_history, rewrites=False)).attempts


def test_the_best_is_served_and_of_equals_the_first(policy: BestOfK) -> None:
    tried = attempts(policy)
    assert len(tried) == 8
    for rewards, place in (([0.1] * 5 + [0.7, 0.9, 0.9], 6), ([0.4] * 8, 0)):
        search = policy.search(key=(0, "u"), n_history=30, rewrites=False)
        next(search)
        with pytest.raises(StopIteration) as end:
            search.send(Replies(rewards=tuple(rewards)))
        assert end.value.value == tried[place]


def test_draws_belong_to_the_user_and_fit_the_history(policy: BestOfK) -> None:
    assert attempts(policy) == attempts(policy)
    assert attempts(policy) != attempts(policy, user="v")
    lengths = {a.spec.history_length for n in range(50) for a in attempts(policy, user=f"u{n}", n_history=4)}
    assert lengths == {1, 2, 3}
    assert {a.spec.history_length for a in attempts(policy, n_history=0)} == {1}


def test_a_spent_budget_leaves_the_manual_prompt(policy: BestOfK, catalogue: Catalogue) -> None:
    search = policy.search(key=(0, "u"), n_history=30, rewrites=False)
    next(search)
    with pytest.raises(StopIteration) as end:
        search.throw(BudgetExceededError("calls"))
    assert end.value.value == Decision(spec=catalogue.manual_prompt)
