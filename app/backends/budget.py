"""A hard cap on requests, reserved before each one is sent."""

from __future__ import annotations

import threading

from promptailor.prompts.errors import BudgetExceededError, InputError


class Budget:
    """At most `calls` requests; thread-safe, never exceeded by one."""

    def __init__(self, calls: int | None = None, *, used: int = 0) -> None:
        """Cap requests.

        Args:
            calls: the cap; None for no cap.
            used: requests an earlier, interrupted part of the same run has already sent.
        """
        self.calls = calls
        self._used = used
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, text: str | None, *, used: int = 0) -> Budget:
        """Read `calls=3000`, as the command line takes it; None or an empty text is no cap."""
        if not text:
            return cls(None, used=used)
        name, _, value = text.partition("=")
        if name.strip() != "calls" or not value.strip().isdigit():
            raise InputError(f"--budget {text!r}: write calls=N with a whole number N")
        return cls(int(value), used=used)

    @property
    def used(self) -> int:
        """Requests reserved so far."""
        return self._used

    @property
    def left(self) -> int | None:
        """Requests that may still be sent; None for no cap."""
        return None if self.calls is None else max(0, self.calls - self._used)

    def reserve(self) -> None:
        """Reserve one request, or raise `BudgetExceededError` where the cap is reached."""
        with self._lock:
            if self.calls is not None and self._used >= self.calls:
                raise BudgetExceededError(f"the budget of {self.calls} calls is spent; raise --budget to go on")
            self._used += 1
