"""Cache, budget and retries: what stands between the graph and money."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.port import ModelPort, RetryPolicy, cache_key
from promptailor.app.backends.store import ResponseStore, StoredResponse
from promptailor.prompts.errors import BudgetExceededError, InputError, ModelCallError
from promptailor.prompts.llm import Message, ModelCall


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
        reads_labels=False,
        retry=RetryPolicy(attempts=3, first_wait_s=0.0),
    )


def test_a_repeat_comes_from_the_store_and_is_counted_apart() -> None:
    model = CountingChat()
    ours = port(model)
    first, second = ours.complete(call("a")), ours.complete(call("a"))
    assert (first.text, first.cached, first.calls) == ("echo a", False, 1)
    assert (second.text, second.cached, second.calls) == ("echo a", True, 1)
    assert model.requests == ours.budget.used == ours.store.requests == 1


@pytest.mark.parametrize(
    "other",
    [call("b"), call("a", split="validation"), call("a", sample_index=1), call("a", labels=("1", "2"))],
)
def test_whatever_an_answer_depends_on_is_in_its_key(other: ModelCall) -> None:
    """Without the split, validation read training answers in a published optimiser."""
    assert cache_key("m", call("a")) != cache_key("m", other)
    assert cache_key("m", call("a")) != cache_key("n", call("a"))


def test_many_threads_asking_the_same_pay_once() -> None:
    model = CountingChat()
    ours = port(model)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ours.complete(call("same")), range(64)))
    assert model.requests == 1
    assert {answer.text for answer in answers} == {"echo same"}


@settings(max_examples=30, deadline=None)
@given(cap=st.integers(0, 12), texts=st.lists(st.sampled_from("abcdefgh"), max_size=24), failures=st.integers(0, 6))
def test_a_budget_of_n_never_sees_request_n_plus_one(cap: int, texts: list[str], failures: int) -> None:
    model = CountingChat(failures=failures)
    ours = port(model, Budget(cap))

    def ask(text: str) -> str:
        try:
            return ours.complete(call(text)).text
        except (BudgetExceededError, ModelCallError) as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, texts))
    assert model.requests <= cap
    assert model.requests == ours.store.requests == ours.budget.used
    assert all(a in (f"echo {t}", "BudgetExceededError", "ModelCallError") for a, t in zip(answers, texts, strict=True))


def test_retries_are_requests_and_the_last_failure_tells_the_true_reason() -> None:
    ours = port(CountingChat(failures=2))
    assert ours.complete(call("a")).calls == 3
    assert ours.store.requests == 3
    with pytest.raises(ModelCallError, match=r"counting:1 failed 3 times.*ConnectionResetError: peer went away"):
        port(CountingChat(failures=9)).complete(call("a"))


def test_what_was_paid_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "responses.sqlite"
    store = ResponseStore(path)
    port(CountingChat(), store=store).complete(call("a"))
    store.put_embedding("e", b"\x00\x01")
    reopened = ResponseStore(path)  # while the first is still open, as after kill -9
    model = CountingChat()
    assert port(model, store=reopened).complete(call("a")).cached
    assert (model.requests, reopened.requests, reopened.get_embedding("e")) == (0, 1, b"\x00\x01")


def test_a_damaged_store_is_a_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    path.write_text("no database, but long enough to be taken for one " * 40)
    with pytest.raises(InputError, match=r"responses\.sqlite: file is not a database; delete the file"):
        ResponseStore(path)


@pytest.mark.parametrize("text", ["3000", "calls=", "calls=many", "money=3", "calls=-1"])
def test_a_budget_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write calls=N"):
        Budget.parse(text)


def test_a_budget_goes_on_from_what_was_spent() -> None:
    budget = Budget.parse("calls=5", used=4)
    budget.reserve()
    assert budget.left == 0
    with pytest.raises(BudgetExceededError, match="the budget of 5 calls is spent"):
        budget.reserve()
    assert Budget.parse(None).left is None


def test_stored_answers_round_trip_any_text() -> None:
    store = ResponseStore()
    texts: Sequence[str] = ["", "1\n2\n3", "„Ümläut“ 🎬", "a" * 100_000]
    for text in texts:
        store.put(text, StoredResponse(text=text, model="m", input_tokens=3, output_tokens=4))
        assert store.get(text) == StoredResponse(text=text, model="m", input_tokens=3, output_tokens=4)
    assert store.get("unknown") is None
