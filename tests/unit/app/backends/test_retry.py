"""What vendors' exceptions say about asking again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from promptailor.app.backends.retry import (
    RetryPolicy,
    is_rate_limit,
    is_refusal,
    retry_after_s,
    status_code,
    true_reason,
)


def failure(status: int, **headers: str) -> Exception:
    """What an HTTP client raises."""
    request = httpx.Request("POST", "http://127.0.0.1/v1/chat/completions")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, request=request, headers=named)
    return httpx.HTTPStatusError(str(status), request=request, response=response)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_request_that_is_refused_is_not_sent_again(status: int) -> None:
    assert is_refusal(failure(status))


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_a_server_in_trouble_is_asked_again(status: int) -> None:
    assert not is_refusal(failure(status))


def test_a_lost_connection_has_no_status_and_is_asked_again() -> None:
    assert status_code(ConnectionResetError("gone")) is None
    assert not is_refusal(ConnectionResetError("gone"))


def test_an_account_without_money_is_a_refusal_though_its_status_says_patience() -> None:
    error = failure(429)
    assert is_rate_limit(error)
    assert not is_refusal(error)
    error.code = "insufficient_quota"  # type: ignore[attr-defined]  # as OpenAI's client sets it
    assert is_refusal(error)


def test_the_wait_that_a_server_asks_for_is_kept_within_reason() -> None:
    policy = RetryPolicy()
    assert policy.wait_s(1, failure(429, retry_after="3")) == 3.0
    assert policy.wait_s(1, failure(503, retry_after="86400")) == policy.longest_retry_after_s
    soon = datetime.now(UTC) + timedelta(seconds=30)
    asked = retry_after_s(failure(429, retry_after=format_datetime(soon, usegmt=True)))
    assert asked is not None
    assert 25 < asked <= 30
    assert retry_after_s(failure(429, retry_after="soon")) is None
    assert retry_after_s(failure(429, retry_after="-4")) == 0.0


def test_waits_grow_to_a_bound_and_differ_between_callers() -> None:
    policy = RetryPolicy(first_wait_s=1.0, longest_wait_s=8.0)
    for attempt, longest in enumerate([1.0, 2.0, 4.0, 8.0, 8.0], 1):
        waits = {policy.wait_s(attempt, failure(500)) for _ in range(20)}
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(waits) > 1


def test_the_reason_that_a_client_hides_is_told() -> None:
    error, wrapped = ConnectionError("Connection error."), RuntimeError("Connection error.")
    wrapped.__cause__, error.__cause__ = OSError("[Errno 111] Connection refused"), wrapped
    assert true_reason(error) == "ConnectionError: Connection error (OSError: [Errno 111] Connection refused)"
    assert true_reason(TimeoutError()) == "TimeoutError"
