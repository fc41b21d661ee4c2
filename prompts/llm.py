"""The port to a language model, as the graph sees it.

The graph knows neither vendors nor budgets: `app.backends` turns a LangChain chat model into a `ChatPort`
that caches, counts and retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "validation", "test", "serve"]
"""Part of the cache key, so that validation can never read an answer recorded while training."""


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """Everything an answer depends on; with the model's own parameters it is the cache key."""

    messages: tuple[Message, ...]
    split: Split
    labels: tuple[str, ...] = ()
    """Labels of the candidates in shown order, for readouts that rank or constrain labels; empty for free text."""
    sample_index: int = 0
    """Which of several answers to the same prompt; distinct indices are distinct calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A model's answer."""

    text: str
    model: str
    cached: bool = False
    """Whether the answer came from the response cache, so that no call was made now."""
    calls: int = 1
    """Requests this answer took when it was paid for, retries included: a repeated run reports the same cost."""
    input_tokens: int = 0
    output_tokens: int = 0


class ChatPort(Protocol):
    """A language model that may be called from many threads and coroutines at once."""

    @property
    def spec(self) -> str:
        """The `provider:model` string, options included, that names this model in manifests."""
        ...

    @property
    def max_candidates(self) -> int | None:
        """How many candidates the model can rank in one prompt; None where only its context bounds it."""
        ...

    def complete(self, call: ModelCall) -> Completion:
        """Answer one call; raises `BudgetExceededError` before, or `ModelCallError` after, the request."""
        ...

    async def acomplete(self, call: ModelCall) -> Completion:
        """Do what `complete` does without holding up the event loop."""
        ...


class TextEncoder(Protocol):
    """A sentence encoder."""

    @property
    def dimension(self) -> int:
        """Length of one embedding."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed texts, unit length, one row per text; the result for a text does not depend on its neighbours."""
        ...
