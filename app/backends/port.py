"""The port between the graph and a LangChain chat model: cache, budget, retries and the count of calls in one place."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.backends.store import ResponseStore, StoredResponse
from promptailor.prompts.errors import ModelCallError, PromptailorError
from promptailor.prompts.llm import Completion, Message, ModelCall

_MESSAGE_CLASSES: dict[str, type[BaseMessage]] = {
    "system": SystemMessage,
    "user": HumanMessage,
    "assistant": AIMessage,
}


_REMEMBERED = 10_000
"""Answers whose callers may still be between a look into the store and asking."""
_DONE: Future[None] = Future()
_DONE.set_result(None)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a request that failed is sent again."""

    attempts: int = 3
    """Requests per answer at most; each is reserved from the budget."""
    first_wait_s: float = 0.5
    """Seconds before the second attempt; doubles each time."""


@dataclass(kw_only=True)
class ModelPort:
    """A chat model that caches by content, reserves its budget before each request and retries; a `ChatPort`."""

    spec: str
    model: BaseChatModel
    store: ResponseStore
    budget: Budget
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    """How a coroutine passes the seconds between two attempts; threads use `sleep`."""
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Make the board on which callers see who is asking already, so that nobody pays for the same answer twice."""
        self._lock = threading.Lock()
        self._asking: dict[str, Future[None]] = {}
        self._bought: dict[str, None] = {}

    @property
    def max_candidates(self) -> int | None:
        """How many candidates the model can rank in one prompt: what it says itself, None where it says nothing."""
        return getattr(self.model, "max_candidates", None)

    def complete(self, call: ModelCall) -> Completion:
        """Answer from the store, or ask the model and store the answer before returning it."""
        key = self._key(call)
        while (stored := self.store.get(key)) is None:
            if asking := self._join(key):
                asking.result()
                continue
            with self._leave(key):
                stored = self._ask(call)
                self.store.put(key, stored)
            return _completion(stored, cached=False)
        return _completion(stored, cached=True)

    async def acomplete(self, call: ModelCall) -> Completion:
        """Do what `complete` does without holding up the event loop."""
        key = self._key(call)
        while (stored := await asyncio.to_thread(self.store.get, key)) is None:
            if asking := self._join(key):
                await asyncio.wrap_future(asking)
                continue
            with self._leave(key):
                stored = await self._aask(call)
                await asyncio.to_thread(self.store.put, key, stored)
            return _completion(stored, cached=False)
        return _completion(stored, cached=True)

    def _key(self, call: ModelCall) -> str:
        return cache_key(self.spec, call, fingerprint=getattr(self.model, "fingerprint", ""))

    def _join(self, key: str) -> Future[None] | None:
        """Return what is done when the caller now asking for this answer is, or None: then the caller is the one."""
        with self._lock:
            if key in self._bought:  # since the caller looked into the store
                return _DONE
            if asking := self._asking.get(key):
                return asking
            self._asking[key] = Future()
            return None

    @contextmanager
    def _leave(self, key: str) -> Iterator[None]:
        """Leave the board at the end of the block; where it failed, one of those who wait asks in its turn."""
        bought = False
        try:
            yield
            bought = True
        finally:
            with self._lock:
                asked = self._asking.pop(key)
                if bought:
                    self._bought[key] = None
                    if len(self._bought) > _REMEMBERED:
                        self._bought.pop(next(iter(self._bought)))
            asked.set_result(None)

    def _ask(self, call: ModelCall) -> StoredResponse:
        model, messages = self._bound(call)
        for attempt in range(1, self.retry.attempts + 1):
            self.budget.reserve()
            try:
                return _stored(model.invoke(messages), self.spec, attempt)
            except Exception as error:  # a vendor's client may raise anything; every kind is retried, then told
                self.sleep(self._failed(error, attempt))
        raise AssertionError("the loop returns or raises")

    async def _aask(self, call: ModelCall) -> StoredResponse:
        model, messages = self._bound(call)
        for attempt in range(1, self.retry.attempts + 1):
            self.budget.reserve()
            try:
                return _stored(await model.ainvoke(messages), self.spec, attempt)
            except Exception as error:  # as in `_ask`
                await self.wait(self._failed(error, attempt))
        raise AssertionError("the loop returns or raises")

    def _bound(self, call: ModelCall) -> tuple[Runnable[LanguageModelInput, AIMessage], list[BaseMessage]]:
        messages = [_MESSAGE_CLASSES[m.role](content=m.content) for m in call.messages]
        if call.labels and isinstance(self.model, RankingChat):
            return self.model.bind(labels=call.labels), messages
        return self.model, messages

    def _failed(self, error: Exception, attempt: int) -> float:
        """Count a request that failed and return the seconds to wait before the next.

        Raises:
            ModelCallError: this was the last attempt.
        """
        if isinstance(error, PromptailorError):  # our own models' one-line errors; asking again would not help
            raise error
        self.store.count_failure()
        if attempt == self.retry.attempts:
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise ModelCallError(f"{self.spec} failed {attempt} times; the last time: {reason}") from error
        return self.retry.first_wait_s * 2.0 ** (attempt - 1)


def cache_key(spec: str, call: ModelCall, *, fingerprint: str = "") -> str:
    """Return the content key: model and options, messages, labels, sample index and split.

    Args:
        spec: names the model and its options.
        call: what is asked.
        fingerprint: of the weights, where one name can come to mean others.
    """
    content = [spec, fingerprint, call.split, call.sample_index, call.labels, [_pair(m) for m in call.messages]]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def _pair(message: Message) -> tuple[str, str]:
    return message.role, message.content


def _stored(answer: AIMessage, spec: str, requests: int) -> StoredResponse:
    usage = answer.usage_metadata
    return StoredResponse(
        text=answer.text,
        model=str(answer.response_metadata.get("model_name", spec)),
        input_tokens=usage["input_tokens"] if usage else 0,
        output_tokens=usage["output_tokens"] if usage else 0,
        requests=requests,
    )


def _completion(stored: StoredResponse, *, cached: bool) -> Completion:
    return Completion(
        text=stored.text,
        model=stored.model,
        cached=cached,
        calls=stored.requests,
        input_tokens=stored.input_tokens,
        output_tokens=stored.output_tokens,
    )
