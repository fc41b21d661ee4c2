"""A hard cap on requests, tokens and money, reserved before each request is sent."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from promptailor.prompts.errors import BudgetExceededError, InputError, RunInterruptedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What requests cost."""

    calls: int = 0
    tokens: int = 0
    """Input and output together."""
    usd: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        """Add up."""
        return Spending(calls=self.calls + other.calls, tokens=self.tokens + other.tokens, usd=self.usd + other.usd)

    def __sub__(self, other: Spending) -> Spending:
        """Take back what was reserved and not spent."""
        return Spending(calls=self.calls - other.calls, tokens=self.tokens - other.tokens, usd=self.usd - other.usd)

    def __str__(self) -> str:
        """Say it as people read it."""
        money = f", ${self.usd:,.4f}" if self.usd else ""
        return f"{self.calls:,} calls, {self.tokens:,} tokens{money}"


ONE_CALL = Spending(calls=1)
_ROUNDING_USD = 1e-9


class Budget:
    """At most so many calls, tokens and US dollars; thread-safe.

    Each request reserves the most it can cost before it is sent, and gives back what it did not: the cap on calls is
    never passed, those on tokens and money only where a model writes more than it was reserved for (`ModelPort.most`).
    """

    def __init__(
        self,
        calls: int | None = None,
        *,
        tokens: int | None = None,
        usd: float | None = None,
        used: Spending = Spending(),
    ) -> None:
        """Set the caps.

        Args:
            calls: requests, retries included; None for no cap.
            tokens: input and output tokens; None for no cap.
            usd: US dollars; None for no cap.
            used: what an earlier, interrupted part of the same run has already spent.
        """
        self.calls, self.tokens, self.usd = calls, tokens, usd
        self._used = used
        self._lock = threading.Lock()
        self._stopped: str | None = None

    @classmethod
    def parse(cls, text: str | None, *, used: Spending = Spending()) -> Budget:
        """Read `calls=3000,tokens=2000000,usd=5`, as the command line takes it; None or an empty text is no cap."""
        caps: dict[str, float] = {}
        for part in filter(None, (text or "").split(",")):
            name, _, value = (piece.strip() for piece in part.partition("="))
            cap = _number(value)
            if name not in ("calls", "tokens", "usd") or name in caps or cap is None:
                raise InputError(f"--budget {text!r}: write calls=N, tokens=N or usd=X, separated by commas")
            if name != "usd" and not cap.is_integer():
                raise InputError(f"--budget {text!r}: {name} is a whole number")
            caps[name] = cap
        whole = {name: int(cap) for name, cap in caps.items() if name != "usd"}
        return cls(whole.get("calls"), tokens=whole.get("tokens"), usd=caps.get("usd"), used=used)

    @property
    def used(self) -> Spending:
        """Spent or reserved so far."""
        return self._used

    @property
    def counts_tokens(self) -> bool:
        """Whether a request has to say how many tokens it may take."""
        return self.tokens is not None or self.usd is not None

    @property
    def stopped(self) -> str | None:
        """Why no further request is let out; None while the caps alone decide."""
        return self._stopped

    def stop(self, reason: str) -> None:
        """Let no further request out; safe in a signal handler, so that a run ends as if its budget were spent."""
        self._stopped = reason

    def reserve(self, most: Spending = ONE_CALL) -> None:
        """Reserve one request.

        Args:
            most: what it can cost at most.

        Raises:
            BudgetExceededError: it could pass a cap.
            RunInterruptedError: the run was told to stop.
        """
        with self._lock:
            if self._stopped:
                raise RunInterruptedError(self._stopped)
            after = self._used + most
            for name, unit, value, cap in (
                ("calls", "calls", after.calls, self.calls),
                ("tokens", "tokens", after.tokens, self.tokens),
                ("usd", "US dollars", after.usd - _ROUNDING_USD, self.usd),
            ):
                if cap is not None and value > cap:
                    raise BudgetExceededError(f"the budget of {cap:,} {unit} is spent; raise --budget {name}= to go on")
            self._used = after

    def settle(self, reserved: Spending, spent: Spending) -> None:
        """Replace what a request had reserved by what it cost."""
        with self._lock:
            self._used = self._used - reserved + spent


def _number(text: str) -> float | None:
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
