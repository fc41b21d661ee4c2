"""What the port expects of a chat model that can rank: the candidates' labels beside the messages, and a readout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from langchain_core.callbacks import CallbackManager
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatResult
from langchain_core.runnables.config import ensure_config

Readout = Literal["text", "structured", "first_token"]
"""How a ranking is read: out of the written answer; out of an answer held to a permutation of the labels by a grammar
or schema; or from the log-probabilities of the labels as the answer's first token."""
READOUTS: tuple[Readout, ...] = get_args(Readout)


class ReadoutFallbackError(Exception):
    """The request was answered, but not in a way the readout can be read from; the model reads otherwise from now on.

    The port counts the request and sends another one at once.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What one request has shown of a model."""

    answer: BaseMessage
    lacks: Mapping[Readout, str]
    """Why a readout does not work; those that are not here do."""


class RankingChat(BaseChatModel):
    """A chat model that takes the labels of the candidates: `invoke(messages, labels=("1", "2", ...))`.

    Without labels it writes, whatever its readout. The answer's `response_metadata` holds `readout`, the one really
    used, and, where that is not the one asked for, the `fallback` reason; `label_log_probs` where they were read.
    """

    readout: Readout = "text"
    fingerprint: str = ""
    """Of the weights, where one name can come to mean others: answers of others are not this model's."""

    readouts: ClassVar[tuple[Readout, ...]] = ("text",)
    """What the back end can do."""
    in_process: ClassVar[bool] = False
    """Whether the model runs here: then the same request fails or answers the same way again, and costs no money."""

    @property
    def max_candidates(self) -> int | None:
        """How many candidates the model can rank in one prompt; None where only its context bounds it."""
        return None

    def ask(self, messages: list[BaseMessage], labels: Sequence[str] = ()) -> BaseMessage:
        """Answer as `invoke` does; where nobody listens, without what it costs to tell them.

        LangChain tells its callbacks and tracers of every request, through four layers that take more time than a small
        model's answer even where there are none.
        """
        options: dict[str, Any] = {"labels": labels} if labels else {}
        if self._is_observed():
            return self.invoke(messages, **options)
        return _message(self._generate(messages, **options))

    async def aask(self, messages: list[BaseMessage], labels: Sequence[str] = ()) -> BaseMessage:
        """Do what `ask` does without holding up the event loop."""
        options: dict[str, Any] = {"labels": labels} if labels else {}
        if self._is_observed():
            return await self.ainvoke(messages, **options)
        return _message(await self._agenerate(messages, **options))

    def _is_observed(self) -> bool:
        """Whether a callback or tracer, or a cache or rate limiter of LangChain's, has to hear of a request."""
        cache = None if self.cache is False else self.cache or get_llm_cache()
        if cache is not None or self.rate_limiter is not None:
            return True
        return bool(CallbackManager.configure(ensure_config().get("callbacks"), self.callbacks, self.verbose).handlers)

    def probe(self, messages: Sequence[BaseMessage], labels: Sequence[str]) -> Probe:
        """Ask once, and say which readouts work."""
        answer = self.invoke(list(messages), labels=tuple(labels))
        return Probe(answer=answer, lacks={r: "the back end has none" for r in READOUTS if r not in self.readouts})

    def count_tokens(self, messages: Sequence[BaseMessage]) -> int:
        """Return the input tokens of a prompt: exactly where the model has its tokenizer here, else estimated."""
        return count_tokens_approximately(messages)


def _message(result: ChatResult) -> BaseMessage:
    """Return the answer, with the metadata that `invoke` would have gathered in it."""
    generation = result.generations[0]
    told = (result.llm_output or {}) | (generation.generation_info or {})
    generation.message.response_metadata = told | generation.message.response_metadata
    return generation.message
