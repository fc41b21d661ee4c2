"""A model behind a network: what is asked again, what is not, and who hears of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from promptailor.app.backends.breaker import CircuitBreaker
from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.prices import Price
from promptailor.app.backends.ranking_chat import ReadoutFallbackError
from promptailor.app.backends.retry import RetryPolicy
from promptailor.app.backends.store import ResponseStore
from promptailor.prompts.errors import BudgetExceededError, ModelCallError
from promptailor.prompts.llm import Completion, Message, ModelCall
from promptailor.prompts.parse import MAX_ANSWER_LENGTH

Turn = BaseMessage | Exception
EVERY_WAY = pytest.mark.parametrize("complete", ["complete", "acomplete"])


class ScriptedChat(BaseChatModel):
    """Answers or fails as its script says; the last turn is repeated."""

    _turns: Iterator[Turn] = PrivateAttr()
    _last: Turn = PrivateAttr(default=AIMessage("unused"))
    requests: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @classmethod
    def of(cls, *turns: Turn) -> ScriptedChat:
        chat = cls()
        chat._turns = iter(turns)
        return chat

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        self.requests += 1
        self._last = next(self._turns, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return ChatResult(generations=[ChatGeneration.model_construct(message=self._last, text="")])


def answer(text: str, n_input: int = 10, n_output: int = 5) -> AIMessage:
    usage = UsageMetadata(input_tokens=n_input, output_tokens=n_output, total_tokens=n_input + n_output)
    return AIMessage(text, usage_metadata=usage)


def http_error(status: int, **headers: str) -> Exception:
    request = httpx.Request("POST", "http://127.0.0.1/v1/chat/completions")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.HTTPStatusError(
        f"status {status}", request=request, response=httpx.Response(status, request=request, headers=named)
    )


def port(model: BaseChatModel, **fields: Any) -> ModelPort:
    retry = RetryPolicy(first_wait_s=0.0)
    made: dict[str, Any] = {"spec": "openai:m", "store": ResponseStore(), "budget": Budget(), "retry": retry}
    return ModelPort(model=model, **(made | fields))


def ask(port: ModelPort, complete: str, text: str = "a") -> Completion:
    call = ModelCall(messages=(Message(role="user", content=text),), split="train")
    if complete == "complete":
        return port.complete(call)
    return asyncio.run(port.acomplete(call))


@EVERY_WAY
@pytest.mark.parametrize(
    "fault",
    [http_error(500), http_error(429, retry_after="0"), http_error(503), ConnectionResetError("gone"), TimeoutError()],
    ids=repr,
)
def test_a_request_that_got_lost_is_sent_again(complete: str, fault: Exception) -> None:
    model = ScriptedChat.of(fault, fault, answer("1 2 3"))
    ours = port(model)
    assert ask(ours, complete).text == "1 2 3"
    assert model.requests == ours.store.requests == ours.budget.used.calls == 3


@EVERY_WAY
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_repeated_and_told_in_one_line(complete: str, status: int) -> None:
    model = ScriptedChat.of(http_error(status))
    with pytest.raises(ModelCallError, match=f"openai:m refused the request: HTTPStatusError: status {status}"):
        ask(port(model), complete)
    assert model.requests == 1


@EVERY_WAY
@pytest.mark.parametrize(
    "fault",
    [answer(""), answer(" \n"), answer("x" * 1_000_000), HumanMessage("1 2 3")],
    ids=["empty", "blank", "1 MB", "wrong role"],
)
def test_an_answer_without_a_ranking_in_it_is_paid_and_asked_for_again(complete: str, fault: BaseMessage) -> None:
    model = ScriptedChat.of(fault, answer("3 2 1"))
    ours = port(model)
    assert ask(ours, complete).text == "3 2 1"
    assert ours.store.spending.calls == ours.budget.used.calls == 2


@EVERY_WAY
def test_where_only_malformed_answers_come_the_last_is_kept_and_bounded(complete: str) -> None:
    model = ScriptedChat.of(answer("x" * 1_000_000))
    completion = ask(port(model), complete)
    assert len(completion.text) == MAX_ANSWER_LENGTH
    assert (model.requests, completion.calls) == (3, 3)


@EVERY_WAY
def test_after_many_failures_in_a_row_nobody_asks_any_more(complete: str) -> None:
    model = ScriptedChat.of(ConnectionRefusedError("nobody listens"))
    ours = port(model, breaker=CircuitBreaker(limit=4))
    for _ in range(3):
        with pytest.raises(ModelCallError, match="nobody listens"):
            ask(ours, complete)
    assert model.requests == 4


@EVERY_WAY
def test_rate_limits_do_not_break_the_circuit(complete: str) -> None:
    model = ScriptedChat.of(*[http_error(429, retry_after="0")] * 6, answer("1"))
    assert ask(port(model, breaker=CircuitBreaker(limit=2)), complete).text == "1"


@EVERY_WAY
def test_a_fallback_answers_where_the_first_model_has_failed_for_good(complete: str) -> None:
    store, budget = ResponseStore(), Budget()
    second = port(ScriptedChat.of(answer("from the second")), spec="openai:second", store=store, budget=budget)
    first = port(ScriptedChat.of(http_error(404)), store=store, budget=budget, fallback=second)
    assert ask(first, complete).text == "from the second"
    assert store.requests == 2


@EVERY_WAY
def test_a_spent_budget_is_no_reason_to_ask_the_fallback(complete: str) -> None:
    second = port(ScriptedChat.of(answer("paid all the same")))
    first = port(ScriptedChat.of(answer("never sent")), budget=Budget(0), fallback=second)
    with pytest.raises(BudgetExceededError):
        ask(first, complete)
    assert second.store.requests == 0


@EVERY_WAY
def test_a_readout_that_a_server_lacks_costs_one_request_and_no_attempt(complete: str, caplog: Any) -> None:
    model = ScriptedChat.of(ReadoutFallbackError("no log-probabilities came; reading text"), answer("1 2"))
    ours = port(model, retry=RetryPolicy(attempts=2))
    with caplog.at_level(logging.WARNING):
        assert ask(ours, complete).text == "1 2"
    assert ours.store.requests == 2
    assert "no log-probabilities came" in caplog.text


@EVERY_WAY
def test_tokens_and_money_are_settled_to_what_was_used(complete: str) -> None:
    model = ScriptedChat.of(answer("1", n_input=1_000, n_output=500))
    ours = port(model, budget=Budget(usd=1.0), price=Price(input=2.0, output=8.0))
    ask(ours, complete)
    expected = Spending(calls=1, tokens=1_500, usd=0.006)
    assert ours.store.spending == expected
    assert ours.budget.used.usd == pytest.approx(0.006)
    assert ours.budget.used.tokens == 1_500


@EVERY_WAY
def test_a_request_that_could_pass_the_money_cap_is_not_sent(complete: str) -> None:
    model = ScriptedChat.of(answer("1"))
    ours = port(model, budget=Budget(usd=0.001), price=Price(input=0.0, output=8.0), max_output_tokens=1_000)
    with pytest.raises(BudgetExceededError, match="US dollars"):
        ask(ours, complete)
    assert model.requests == 0


def test_a_coroutine_gives_up_a_request_that_hangs() -> None:
    class Hanging(ScriptedChat):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            self.requests += 1
            if self.requests == 1:
                await asyncio.sleep(60)
            return self._generate(*args)

    model = Hanging.of(answer("1 2"))
    assert ask(port(model, timeout_s=0.05), "acomplete").text == "1 2"


@EVERY_WAY
def test_no_key_is_in_what_a_failure_says(
    complete: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-very-secret")
    model = ScriptedChat.of(RuntimeError("bad key sk-test-very-secret"), http_error(401))
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelCallError) as raised:
        ask(port(model), complete)
    assert "very-secret" not in caplog.text + str(raised.value)
