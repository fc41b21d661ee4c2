"""Caps on calls, tokens and money."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.app.backends.budget import ONE_CALL, Budget, Spending
from promptailor.prompts.errors import BudgetExceededError, InputError, RunInterruptedError

COSTS = st.builds(Spending, calls=st.just(1), tokens=st.integers(0, 50), usd=st.floats(0, 0.05))


@pytest.mark.parametrize("text", ["3000", "calls=", "calls=many", "money=3", "calls=-1", "calls=1,calls=2", "usd=nan"])
def test_a_budget_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write calls=N, tokens=N or usd=X"):
        Budget.parse(text)


def test_calls_and_tokens_are_whole_numbers() -> None:
    with pytest.raises(InputError, match="tokens is a whole number"):
        Budget.parse("tokens=1.5")


def test_every_cap_can_be_set_at_once() -> None:
    budget = Budget.parse("calls=3_000, tokens=2e6, usd=0.5")
    assert (budget.calls, budget.tokens, budget.usd) == (3_000, 2_000_000, 0.5)
    assert Budget.parse(None).calls is None


def test_a_budget_goes_on_from_what_was_spent() -> None:
    budget = Budget.parse("calls=5", used=Spending(calls=4))
    budget.reserve()
    with pytest.raises(BudgetExceededError, match="the budget of 5 calls is spent; raise --budget calls="):
        budget.reserve()


@given(st.lists(st.tuples(COSTS, st.floats(0, 1))), st.integers(0, 9), st.integers(0, 200), st.floats(0, 0.2))
def test_what_is_spent_never_passes_a_cap(
    requests: list[tuple[Spending, float]], calls: int, tokens: int, usd: float
) -> None:
    budget = Budget(calls, tokens=tokens, usd=usd)
    spent = Spending()
    for most, share in requests:
        try:
            budget.reserve(most)
        except BudgetExceededError:
            continue
        really = Spending(calls=1, tokens=int(most.tokens * share), usd=most.usd * share)
        budget.settle(most, really)
        spent += really
    assert spent.calls <= calls
    assert spent.tokens <= tokens
    assert spent.usd <= usd + 1e-6
    assert budget.used.calls == spent.calls
    assert budget.used.tokens == spent.tokens


def test_many_threads_never_reserve_more_than_the_cap() -> None:
    budget = Budget(tokens=1_000)

    def ask(_: int) -> bool:
        try:
            budget.reserve(Spending(calls=1, tokens=7))
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        granted = sum(pool.map(ask, range(500)))
    assert granted == 1_000 // 7
    assert budget.used == Spending(calls=granted, tokens=7 * granted)


def test_what_was_reserved_and_not_spent_can_be_spent_by_others() -> None:
    budget = Budget(usd=1.0)
    most = Spending(calls=1, usd=0.9)
    budget.reserve(most)
    with pytest.raises(BudgetExceededError, match="US dollars"):
        budget.reserve(most)
    budget.settle(most, Spending(calls=1, usd=0.05))
    budget.reserve(most)


def test_a_stopped_budget_lets_nothing_out_and_says_so() -> None:
    budget = Budget()
    budget.stop("stopped by the user")
    with pytest.raises(RunInterruptedError, match="stopped by the user"):
        budget.reserve(ONE_CALL)
