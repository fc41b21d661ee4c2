"""A model that keeps failing is left alone."""

from __future__ import annotations

import pytest

from promptailor.app.backends.breaker import CircuitBreaker
from promptailor.prompts.errors import ModelCallError


def test_it_opens_after_so_many_failures_in_a_row_and_tells_the_last_reason() -> None:
    breaker = CircuitBreaker(limit=3)
    for reason in ("first", "second"):
        breaker.failed(reason)
        breaker.check("openai:m")
    breaker.failed("no route to host")
    with pytest.raises(ModelCallError, match=r"openai:m failed 3 times in a row; the last time: no route to host"):
        breaker.check("openai:m")


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = CircuitBreaker(limit=2)
    for _ in range(5):
        breaker.failed("lost")
        breaker.succeeded()
    breaker.check("openai:m")


def test_after_a_while_one_request_is_let_through_and_its_success_closes_it() -> None:
    now = 0.0
    breaker = CircuitBreaker(limit=1, cooldown_s=30.0, clock=lambda: now)
    breaker.failed("down")
    with pytest.raises(ModelCallError):
        breaker.check("openai:m")
    now = 31.0
    breaker.check("openai:m")
    with pytest.raises(ModelCallError):
        breaker.check("openai:m")
    breaker.succeeded()
    breaker.check("openai:m")
