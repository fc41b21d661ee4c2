"""A circuit breaker: after many failures in a row nobody asks any more, and everybody hears the true reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from promptailor.prompts.errors import ModelCallError


@dataclass(kw_only=True)
class CircuitBreaker:
    """Opens after `limit` failures in a row, of all callers together.

    A run ends there. In a server that lives on, one request is let through after each `cooldown_s`; its success closes
    the circuit.
    """

    limit: int = 10
    cooldown_s: float = 30.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._reason = ""
        self._try_again_at = 0.0

    def check(self, spec: str) -> None:
        """Pass, or raise a `ModelCallError` with the reason of the last failure while the circuit is open."""
        with self._lock:
            if self._failures < self.limit:
                return
            if self.clock() >= self._try_again_at:
                self._try_again_at = self.clock() + self.cooldown_s
                return
            raise ModelCallError(
                f"{spec} failed {self._failures} times in a row; the last time: {self._reason}; "
                "mend it and go on with --resume"
            )

    def succeeded(self) -> None:
        """Close the circuit."""
        with self._lock:
            self._failures = 0

    def failed(self, reason: str) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            self._reason = reason
            if self._failures == self.limit:
                self._try_again_at = self.clock() + self.cooldown_s
