"""The port between the graph and a LangChain chat model: cache, budget, pace, retries and fallbacks in one place."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import operator
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately

from promptailor.app.backends.breaker import CircuitBreaker
from promptailor.app.backends.budget import ONE_CALL, Budget, Spending
from promptailor.app.backends.messages import chat_messages
from promptailor.app.backends.pace import Pace
from promptailor.app.backends.prices import Price
from promptailor.app.backends.ranking_chat import RankingChat, ReadoutFallbackError
from promptailor.app.backends.retry import RetryPolicy, is_rate_limit, is_refusal, retry_after_s, true_reason
from promptailor.app.backends.store import RecordedModel, ResponseStore, StoredResponse
from promptailor.prompts.errors import ModelCallError, PromptailorError
from promptailor.prompts.llm import Completion, Message, ModelCall
from promptailor.prompts.parse import MAX_ANSWER_LENGTH

logger = logging.getLogger(__name__)

_REMEMBERED = 10_000
"""Answers whose callers may still be between a look into the store and asking."""
_MOST_OUTPUT_TOKENS = 1_024
"""Reserved for an answer where the model string sets no `max_tokens`."""
_ESTIMATE_MARGIN = 1.5
"""Reserved on top of an estimated prompt length; an estimate is of English, and titles are of any language."""
_DONE: Future[None] = Future()
_DONE.set_result(None)

Given = ParamSpec("Given")
Found = TypeVar("Found")


@dataclass(kw_only=True)
class ModelPort:
    """A chat model that caches by content, reserves its budget before each request and retries; a `ChatPort`."""

    spec: str
    model: BaseChatModel
    store: ResponseStore
    budget: Budget
    price: Price | None = None
    """None where nobody knows; requests then cost calls and tokens only."""
    max_output_tokens: int = _MOST_OUTPUT_TOKENS
    timeout_s: float | None = None
    """Seconds a coroutine waits for one request; threads rely on the client's own limit."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    pace: Pace = field(default_factory=Pace)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    recorded: tuple[ResponseStore, ...] = ()
    """Answers of earlier runs, looked up where the run's own store has none."""
    fallback: ModelPort | None = None
    """Asked where this model has failed for good."""
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    """How a coroutine passes the seconds between two attempts; threads use `sleep`."""
    sleep: Callable[[float], None] = time.sleep
    read: Callable[[BaseMessage], str] = operator.attrgetter("text")
    """What of an answer is kept and returned: its text, where the question needs nothing else."""

    def __post_init__(self) -> None:
        """Make the board on which callers see who is asking already, so that nobody pays for the same answer twice."""
        self._lock = threading.Lock()
        self._asking: dict[str, Future[None]] = {}
        self._bought: dict[str, None] = {}
        self._recorded = False

    @property
    def max_candidates(self) -> int | None:
        """How many candidates the model can rank in one prompt: what it says itself, None where it says nothing."""
        return getattr(self.model, "max_candidates", None)

    @property
    def fingerprint(self) -> str:
        """Of the weights, where the model knows them."""
        return getattr(self.model, "fingerprint", "")

    @property
    def in_process(self) -> bool:
        """Whether the model runs here, so that asking again would give the same."""
        return isinstance(self.model, RankingChat) and self.model.in_process

    def complete(self, call: ModelCall) -> Completion:
        """Answer from the store, or ask the model and store the answer before returning it."""
        try:
            return self._complete(call)
        except ModelCallError as error:
            if self.fallback is None:
                raise
            logger.warning("%s; asking %s instead", error, self.fallback.spec)
            return self.fallback.complete(call)

    async def acomplete(self, call: ModelCall) -> Completion:
        """Do what `complete` does without holding up the event loop."""
        try:
            return await self._acomplete(call)
        except ModelCallError as error:
            if self.fallback is None:
                raise
            logger.warning("%s; asking %s instead", error, self.fallback.spec)
            return await self.fallback.acomplete(call)

    def foresee(self, call: ModelCall, answer: str) -> Spending:
        """Return what a call would cost, were this its answer: exact where the model has its tokenizer here."""
        n_output = self._count_tokens([AIMessage(answer)])
        if call.labels and isinstance(self.model, RankingChat) and self.model.readout == "first_token":
            n_output = 1
        return self._spending(self._count_tokens(chat_messages(call.messages)), n_output)

    def _complete(self, call: ModelCall) -> Completion:
        key = self._key(call)
        while (stored := self._find(key)) is None:
            if asking := self._join(key):
                asking.result()
                continue
            with self._leave(key):
                stored, spent = self._ask(call)
                self._keep(key, stored, spent)
            return _completion(stored, cached=False)
        self.store.count_hit()
        return _completion(stored, cached=True)

    async def _acomplete(self, call: ModelCall) -> Completion:
        key = self._key(call)
        while (stored := await self._visit(self._find, key)) is None:
            if asking := self._join(key):
                await asyncio.wrap_future(asking)
                continue
            with self._leave(key):
                stored, spent = await self._aask(call)
                await self._visit(self._keep, key, stored, spent)
            return _completion(stored, cached=False)
        self.store.count_hit()
        return _completion(stored, cached=True)

    async def _visit(self, visit: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found:
        """Visit the store from an event loop, in a thread where the store says so."""
        if self.store.in_threads:
            return await asyncio.to_thread(visit, *args, **kwargs)
        return visit(*args, **kwargs)

    def _key(self, call: ModelCall) -> str:
        return cache_key(self.spec, call, fingerprint=self.fingerprint)

    def _find(self, key: str) -> StoredResponse | None:
        if found := self.store.get(key):
            self._record_model()  # the answer may be a library's, and the first one here
            return found
        return next((found for store in self.recorded if (found := store.get(key))), None)

    def _keep(self, key: str, stored: StoredResponse, spent: Spending) -> None:
        self._record_model()
        self.store.put(key, stored, spent)

    def _record_model(self) -> None:
        if not self._recorded:
            model = RecordedModel(spec=self.spec, fingerprint=self.fingerprint, max_candidates=self.max_candidates)
            self.store.add_model(model)
            self._recorded = True

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

    def _ask(self, call: ModelCall) -> tuple[StoredResponse, Spending]:
        attempts = _Attempts(self, call)
        while True:
            with self.pace.slot():
                attempts.start()
                try:
                    answer = attempts.send()
                except Exception as error:  # a vendor's client may raise anything; every kind is judged in one place
                    wait_s = attempts.failed(error)
                else:
                    if paid := attempts.accepted(answer):
                        return paid
                    continue
            self.sleep(wait_s)

    async def _aask(self, call: ModelCall) -> tuple[StoredResponse, Spending]:
        attempts = _Attempts(self, call)
        while True:
            async with self.pace.aslot():
                attempts.start()
                try:
                    async with asyncio.timeout(self.timeout_s):
                        answer = await attempts.asend()
                except Exception as error:  # as in `_ask`
                    wait_s = attempts.failed(error)
                else:
                    if paid := attempts.accepted(answer):
                        return paid
                    continue
            await self.wait(wait_s)

    def _count_tokens(self, messages: list[BaseMessage]) -> int:
        if isinstance(self.model, RankingChat):
            return self.model.count_tokens(messages)
        return count_tokens_approximately(messages)

    def _most(self, messages: list[BaseMessage]) -> Spending:
        """Return what a request can cost at most."""
        if not self.budget.counts_tokens:
            return ONE_CALL
        n_input = self._count_tokens(messages)
        if not self.in_process:
            n_input = int(n_input * _ESTIMATE_MARGIN)
        return self._spending(n_input, self.max_output_tokens)

    def _spending(self, n_input: int, n_output: int) -> Spending:
        usd = self.price.usd(n_input, n_output) if self.price else 0.0
        return Spending(calls=1, tokens=n_input + n_output, usd=usd)


class _Attempts:
    """The requests of one answer, one after another: what each costs, and whether another one follows."""

    def __init__(self, port: ModelPort, call: ModelCall) -> None:
        self._port, self._messages, self._labels = port, chat_messages(call.messages), call.labels
        self._most = port._most(self._messages)
        self._n_requests = 0

    def start(self) -> None:
        """Reserve the next request; raises where the budget or the circuit breaker lets none out."""
        self._port.breaker.check(self._port.spec)
        self._port.budget.reserve(self._most)
        self._n_requests += 1

    def send(self) -> BaseMessage:
        """Ask the model once."""
        model = self._port.model
        if isinstance(model, RankingChat):
            return model.ask(self._messages, self._labels)
        return model.invoke(self._messages)

    async def asend(self) -> BaseMessage:
        """Ask the model once, without holding up the event loop."""
        model = self._port.model
        if isinstance(model, RankingChat):
            return await model.aask(self._messages, self._labels)
        return await model.ainvoke(self._messages)

    def accepted(self, answer: BaseMessage) -> tuple[StoredResponse, Spending] | None:
        """Return an answer and the cost of its request; None where it is malformed and another one should be asked."""
        port = self._port
        usage = answer.usage_metadata if isinstance(answer, AIMessage) else None
        n_input, n_output = (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
        spent = port._spending(n_input, n_output)
        port.budget.settle(self._most, spent)
        fault = None if port.in_process else _fault(answer)
        if fault and self._n_requests < port.retry.malformed_attempts:
            logger.info("%s: request %d brought %s; asking again", port.spec, self._n_requests, fault)
            port.store.spend(spent)
            return None
        port.breaker.succeeded()
        stored = StoredResponse(
            text=port.read(answer)[:MAX_ANSWER_LENGTH],
            model=str(answer.response_metadata.get("model_name", port.spec)),
            input_tokens=n_input,
            output_tokens=n_output,
            requests=self._n_requests,
        )
        return stored, spent

    def failed(self, error: Exception) -> float:
        """Count a request that failed and return the seconds to wait before the next.

        Raises:
            ModelCallError: no further request would help.
        """
        port, n = self._port, self._n_requests
        port.budget.settle(self._most, ONE_CALL)
        if isinstance(error, PromptailorError):  # our own models' one-line errors; asking again would not help
            raise error
        port.store.spend(ONE_CALL)
        reason = true_reason(error)
        if isinstance(error, ReadoutFallbackError):
            logger.warning("%s: %s", port.spec, error)
            return 0.0
        if is_refusal(error):
            raise ModelCallError(f"{port.spec} refused the request: {reason}") from error
        if is_rate_limit(error):
            port.pace.pause(retry_after_s(error) or 0.0)
        else:
            port.breaker.failed(reason)
        if port.in_process or n >= port.retry.attempts:
            times = "once" if n == 1 else f"{n} times"
            raise ModelCallError(f"{port.spec} failed {times}; the last time: {reason}") from error
        wait_s = port.retry.wait_s(n, error)
        logger.info("%s: request %d failed (%s); the next in %.1f s", port.spec, n, reason, wait_s)
        return wait_s


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


def _fault(answer: BaseMessage) -> str | None:
    """Say what is wrong with an answer before its text is read; None where nothing is."""
    if not isinstance(answer, AIMessage):
        return f"a message of a {answer.type}"
    if not answer.text.strip():
        return "no text"
    if len(answer.text) > MAX_ANSWER_LENGTH:
        return f"{len(answer.text):,} characters"
    return None


def _completion(stored: StoredResponse, *, cached: bool) -> Completion:
    return Completion(
        text=stored.text,
        model=stored.model,
        cached=cached,
        calls=stored.requests,
        input_tokens=stored.input_tokens,
        output_tokens=stored.output_tokens,
    )
