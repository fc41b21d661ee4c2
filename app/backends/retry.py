"""When a request that failed is sent again, and how long to wait: what a vendor's exception says about it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from promptailor.app.redact import redact

_RETRIED_STATUS = frozenset({408, 409, 425, 429})
"""Answers of the 4xx class that a later request may not get."""
_TOO_MANY = 429
_NO_MONEY = "insufficient_quota"
"""OpenAI's code of a 429 that no waiting mends."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential waits with jitter, or what the server asks for.

    The default gives up on an answer only where a server fails eight times: with one request in five lost, once in
    400,000 answers.
    """

    attempts: int = 8
    """Requests per answer at most; each is reserved from the budget."""
    first_wait_s: float = 0.25
    """Longest wait before the second attempt, in seconds; doubles each time."""
    longest_wait_s: float = 8.0
    longest_retry_after_s: float = 60.0
    """A server that asks for more patience is asked again after this many seconds."""
    malformed_attempts: int = 3
    """Answers without a text are paid for all the same; the last of so many is taken as it is."""

    def wait_s(self, attempt: int, error: Exception) -> float:
        """Return the seconds to wait after a failed attempt, counted from 1."""
        if (asked := retry_after_s(error)) is not None:
            return min(asked, self.longest_retry_after_s)
        longest = min(self.first_wait_s * 2.0 ** (attempt - 1), self.longest_wait_s)
        return longest * random.uniform(0.5, 1.0)  # jitter, so that callers who failed together do not return together


def true_reason(error: BaseException) -> str:
    """Say in one line what went wrong, with the cause that a client's own exception hides, and without any key."""
    told, cause = _line(error), error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    hidden = "" if str(cause) in str(error) else f" ({_line(cause)})"
    return redact(f"{told}{hidden}")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ").rstrip(" .:")


def status_code(error: Exception) -> int | None:
    """Return the HTTP status behind an exception; None where none came."""
    for source in (error, getattr(error, "response", None)):
        code = getattr(source, "status_code", None)
        if isinstance(code, int):
            return code
    return None


def is_refusal(error: Exception) -> bool:
    """Whether the server understood the request and will never answer it: no key, no such model, no money."""
    code = status_code(error)
    if code == _TOO_MANY:
        return getattr(error, "code", None) == _NO_MONEY
    return code is not None and 400 <= code < 500 and code not in _RETRIED_STATUS


def is_rate_limit(error: Exception) -> bool:
    """Whether the server works and asks for patience."""
    return status_code(error) == _TOO_MANY


def retry_after_s(error: Exception) -> float | None:
    """Return the seconds a server asks to wait, from `Retry-After` in seconds or as a date; None where it does not."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get("retry-after") if headers is not None else None
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass  # then it is a date
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
