"""Cache, budget and retries: what stands between the graph and money."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from promptailor.app.backends.budget import ONE_CALL, Budget, Spending
from promptailor.app.backends.port import ModelPort, cache_key
from promptailor.app.backends.retry import RetryPolicy
from promptailor.app.backends.store import ResponseStore, StoredResponse
from promptailor.prompts.errors import BudgetExceededError, InputError, ModelCallError, PromptailorError
from promptailor.prompts.llm import Completion, Message, ModelCall


class CountingChat(BaseChatModel):
    """Echoes the prompt, counts requests, and fails the first `failures` of them."""

    failures: int = 0
    _requests: int = PrivateAttr(0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "counting"

    @property
    def requests(self) -> int:
        return self._requests

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        with self._lock:
            self._requests += 1
            number = self._requests
        if number <= self.failures:
            raise ConnectionResetError("peer went away")
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=f"echo {messages[-1].text}"))])


def call(text: str, **changes: Any) -> ModelCall:
    return ModelCall(messages=(Message(role="user", content=text),), **{"split": "train", **changes})


def port(model: CountingChat, budget: Budget | None = None, store: ResponseStore | None = None) -> ModelPort:
    return ModelPort(
        spec="counting:1",
        model=model,
        store=store or ResponseStore(),
        budget=budget or Budget(),
        retry=RetryPolicy(attempts=3, first_wait_s=0.0),
    )


def test_a_repeat_comes_from_the_store_and_is_counted_apart() -> None:
    model = CountingChat()
    ours = port(model)
    first, second = ours.complete(call("a")), ours.complete(call("a"))
    assert (first.text, first.cached, first.calls) == ("echo a", False, 1)
    assert (second.text, second.cached, second.calls) == ("echo a", True, 1)
    assert model.requests == ours.budget.used.calls == ours.store.requests == 1
    assert ours.store.hits == 1


@pytest.mark.parametrize(
    "other",
    [call("b"), call("a", split="validation"), call("a", sample_index=1), call("a", labels=("1", "2"))],
)
def test_whatever_an_answer_depends_on_is_in_its_key(other: ModelCall) -> None:
    """Without the split, validation read training answers in a published optimiser."""
    assert cache_key("m", call("a")) != cache_key("m", other)
    assert cache_key("m", call("a")) != cache_key("n", call("a"))
    assert cache_key("m", call("a"), fingerprint="old") != cache_key("m", call("a"), fingerprint="new")


Ask = Callable[[ModelPort, Sequence[str]], list[Completion | BaseException]]


def by_threads(ours: ModelPort, texts: Sequence[str]) -> list[Completion | BaseException]:
    def ask(text: str) -> Completion | BaseException:
        try:
            return ours.complete(call(text))
        except PromptailorError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, texts))


def by_coroutines(ours: ModelPort, texts: Sequence[str]) -> list[Completion | BaseException]:
    async def ask_all() -> list[Completion | BaseException]:
        return await asyncio.gather(*(ours.acomplete(call(text)) for text in texts), return_exceptions=True)

    return asyncio.run(ask_all())


def by_both(ours: ModelPort, texts: Sequence[str]) -> list[Completion | BaseException]:
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(lambda ask, part: ask(ours, part), (by_threads, by_coroutines), (texts[::2], texts[1::2]))
        even, odd = list(halves)
    return [(odd if place % 2 else even)[place // 2] for place in range(len(texts))]


EVERY_WAY = pytest.mark.parametrize("ask", [by_threads, by_coroutines, by_both])


@EVERY_WAY
def test_many_who_ask_the_same_pay_once(ask: Ask) -> None:
    model = CountingChat()
    answers = ask(port(model), ["same"] * 64)
    assert model.requests == 1
    assert {answer.text for answer in answers if isinstance(answer, Completion)} == {"echo same"}
    assert not any(isinstance(answer, BaseException) for answer in answers)


@EVERY_WAY
@settings(max_examples=30, deadline=None)
@given(cap=st.integers(0, 12), texts=st.lists(st.sampled_from("abcdefgh"), max_size=24), failures=st.integers(0, 6))
def test_a_budget_of_n_never_sees_request_n_plus_one(ask: Ask, cap: int, texts: list[str], failures: int) -> None:
    model = CountingChat(failures=failures)
    ours = port(model, Budget(cap))
    answers = ask(ours, texts)
    assert model.requests <= cap
    assert model.requests == ours.store.requests == ours.budget.used.calls
    for answer, text in zip(answers, texts, strict=True):
        if isinstance(answer, BaseException):
            assert isinstance(answer, BudgetExceededError | ModelCallError)
        else:
            assert answer.text == f"echo {text}"


def test_the_budget_test_fails_when_the_cap_is_checked_after_the_request_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve(self: Budget, most: Spending = ONE_CALL) -> None:
        if self.calls is not None and self._used.calls > self.calls:
            raise BudgetExceededError("spent")
        self._used += most

    monkeypatch.setattr(Budget, "reserve", reserve)
    with pytest.raises(AssertionError):
        test_a_budget_of_n_never_sees_request_n_plus_one.hypothesis.inner_test(by_threads, 1, ["a", "b", "c"], 0)


def test_the_key_test_fails_when_the_split_is_left_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with_split = cache_key
    monkeypatch.setitem(globals(), "cache_key", lambda spec, call: with_split(spec, replace(call, split="train")))
    with pytest.raises(AssertionError):
        test_whatever_an_answer_depends_on_is_in_its_key(call("a", split="validation"))


@EVERY_WAY
def test_retries_are_requests_and_the_last_failure_tells_the_true_reason(ask: Ask) -> None:
    ours = port(CountingChat(failures=2))
    (answer,) = ask(ours, ["a"])
    assert isinstance(answer, Completion)
    assert answer.calls == 3
    assert ours.store.requests == 3
    (error,) = ask(port(CountingChat(failures=9)), ["a"])
    assert isinstance(error, ModelCallError)
    assert re.search(r"counting:1 failed 3 times.*ConnectionResetError: peer went away", str(error))


def test_an_answer_that_took_retries_costs_the_same_when_it_is_read_again() -> None:
    ours = port(CountingChat(failures=2))
    assert ours.complete(call("a")).calls == ours.complete(call("a")).calls == 3


def test_what_was_paid_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "responses.sqlite"
    store = ResponseStore(path)
    port(CountingChat(), store=store).complete(call("a"))
    store.put_embedding("e", b"\x00\x01")
    reopened = ResponseStore(path)  # while the first is still open, as after kill -9
    model = CountingChat()
    assert port(model, store=reopened).complete(call("a")).cached
    assert (model.requests, reopened.requests, reopened.get_embedding("e")) == (0, 1, b"\x00\x01")


def test_an_event_loop_goes_on_while_another_process_holds_the_shared_library(tmp_path: Path) -> None:
    library = ResponseStore(tmp_path / "library.sqlite")
    ours = port(CountingChat(), store=ResponseStore(tmp_path / "responses.sqlite", library=library))
    ours.complete(call("a"))
    other = sqlite3.connect(tmp_path / "library.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def ask() -> Completion:
        asked = asyncio.create_task(ours.acomplete(call("b")))
        await asyncio.sleep(0.1)
        assert not asked.done(), "the answer is used before it is kept"
        other.execute("ROLLBACK")
        return await asked

    assert asyncio.run(ask()).text == "echo b"
    other.close()


def test_a_damaged_store_is_a_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    path.write_text("no database, but long enough to be taken for one " * 40)
    with pytest.raises(InputError, match=r"responses\.sqlite: file is not a database; delete the file"):
        ResponseStore(path).get("key")


def test_stored_answers_round_trip_any_text() -> None:
    store = ResponseStore()
    texts: Sequence[str] = ["", "1\n2\n3", "„Ümläut“ 🎬", "a" * 100_000]
    for text in texts:
        store.put(text, StoredResponse(text=text, model="m", input_tokens=3, output_tokens=4))
        assert store.get(text) == StoredResponse(text=text, model="m", input_tokens=3, output_tokens=4)
    assert store.get("unknown") is None
