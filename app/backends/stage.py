"""A stage's share of a run's budget: what one part of a run spends cannot starve the others.

Answers are counted as they are asked for, from the response store or not, so a resumed run stops a stage where the
unbroken one did. The budget itself still bounds what is really sent.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.port import ModelPort
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.llm import Completion, ModelCall


@dataclass(kw_only=True)
class Stage:
    """One part of a run, with what it may spend."""

    name: str
    calls: int
    """Answers at most."""
    tokens: int | None = None
    usd: float | None = None
    used: Spending = field(default_factory=Spending)
    _asked: set[tuple[str, ModelCall]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, name: str, share: float, calls: int, budget: Budget) -> Stage:
        """Give a stage its share of a number of calls and of the budget's caps."""
        most = calls if budget.calls is None else min(calls, budget.calls)
        return cls(
            name=name,
            calls=int(share * most),
            tokens=None if budget.tokens is None else int(share * budget.tokens),
            usd=None if budget.usd is None else share * budget.usd,
        )

    @property
    def left(self) -> int:
        """Answers that may still be asked for; none where the tokens or the money are spent."""
        spent = (self.tokens is not None and self.used.tokens >= self.tokens) or (
            self.usd is not None and self.used.usd >= self.usd
        )
        return 0 if spent else max(0, self.calls - self.used.calls)

    def begin(self, spec: str, call: ModelCall) -> bool:
        """Count an answer before it is asked for; whether it is the first time that the stage asks for it.

        Raises:
            BudgetExceededError: the stage has spent its share.
        """
        with self._lock:
            if (spec, call) in self._asked:
                return False
            if not self.left:
                raise BudgetExceededError(
                    f"{self.name}: its share of {self.calls:,} calls is spent; raise --calls, or the --budget"
                )
            self._asked.add((spec, call))
            self.used += Spending(calls=1)
            return True

    def settle(self, completion: Completion, usd: float) -> None:
        """Count what an answer took beyond one call."""
        tokens = completion.input_tokens + completion.output_tokens
        with self._lock:
            self.used += Spending(calls=completion.calls - 1, tokens=tokens, usd=usd)


@dataclass(frozen=True, kw_only=True)
class StagePort:
    """A model as one stage may ask it; a `ChatPort`."""

    port: ModelPort
    stage: Stage

    @property
    def spec(self) -> str:
        """The model's own."""
        return self.port.spec

    @property
    def max_candidates(self) -> int | None:
        """The model's own."""
        return self.port.max_candidates

    def complete(self, call: ModelCall) -> Completion:
        """Answer one call."""
        first = self.stage.begin(self.spec, call)
        return self._counted(self.port.complete(call), first)

    async def acomplete(self, call: ModelCall) -> Completion:
        """Do what `complete` does without holding up the event loop."""
        first = self.stage.begin(self.spec, call)
        return self._counted(await self.port.acomplete(call), first)

    def _counted(self, completion: Completion, first: bool) -> Completion:
        if first:
            price = self.port.price
            self.stage.settle(
                completion, price.usd(completion.input_tokens, completion.output_tokens) if price else 0.0
            )
        return completion
