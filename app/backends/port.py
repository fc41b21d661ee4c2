"""The port between the graph and a LangChain chat model: cache, budget, retries and the count of calls in one place."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.store import ResponseStore, StoredResponse
from promptailor.prompts.errors import ModelCallError, PromptailorError
from promptailor.prompts.llm import Completion, Message, ModelCall

_MESSAGE_CLASSES: dict[str, type[BaseMessage]] = {
    "system": SystemMessage,
    "user": HumanMessage,
    "assistant": AIMessage,
}


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
    reads_labels: bool
    """Whether the model takes the candidates' labels beside the messages, as in-process models do."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Make the locks that keep two threads from paying for the same answer."""
        self._in_flight: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def complete(self, call: ModelCall) -> Completion:
        """Answer from the store, or ask the model and store the answer before returning it."""
        key = cache_key(self.spec, call)
        if stored := self.store.get(key):
            return _completion(stored, cached=True)
        with self._in_flight[key]:
            stored = self.store.get(key)
            cached = stored is not None
            if stored is None:
                stored = self._ask(call)
                self.store.put(key, stored)
        self._in_flight.pop(key, None)
        return _completion(stored, cached=cached)

    def _ask(self, call: ModelCall) -> StoredResponse:
        messages = [_MESSAGE_CLASSES[m.role](content=m.content) for m in call.messages]
        model = self.model.bind(labels=call.labels) if self.reads_labels and call.labels else self.model
        wait = self.retry.first_wait_s
        for attempt in range(1, self.retry.attempts + 1):
            self.budget.reserve()
            try:
                answer = model.invoke(messages)
            except PromptailorError:
                raise
            except Exception as error:  # a vendor's client may raise anything; every kind is retried, then told
                self.store.count_failure()
                if attempt == self.retry.attempts:
                    reason = f"{type(error).__name__}: {error}".replace("\n", " ")
                    raise ModelCallError(f"{self.spec} failed {attempt} times; the last time: {reason}") from error
                self.sleep(wait)
                wait *= 2
            else:
                return _stored(answer, self.spec, attempt)
        raise AssertionError("the loop returns or raises")


def cache_key(spec: str, call: ModelCall) -> str:
    """Return the content key: model and options, messages, labels, sample index and split."""
    content = [spec, call.split, call.sample_index, call.labels, [_pair(m) for m in call.messages]]
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
