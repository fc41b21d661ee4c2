"""A request that nobody listens to skips LangChain's way of telling, and nothing else: same answer, whole traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import UUID

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_debug, set_llm_cache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs
from pydantic import PrivateAttr

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.backends.store import ResponseStore
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_batch
from promptailor.graph.state import RankInput
from promptailor.policies.manual import manual_policy
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import ModelCallError
from promptailor.prompts.llm import Message, ModelCall
from promptailor.prompts.patterns import load_catalogue

PROMPT: list[BaseMessage] = [HumanMessage("rank")]
LABELS = ("1", "2", "3")


class TellingChat(RankingChat):
    """Answers with its labels, and tells as much as a server does, in all the places that LangChain knows."""

    in_process: ClassVar[bool] = True  # so that a failure is not tried again
    fails: bool = False
    _direct: list[bool] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "telling"

    @property
    def direct(self) -> list[bool]:
        """For each request whether LangChain was passed by."""
        return self._direct

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, *, labels: Any = (), **_: Any
    ) -> ChatResult:
        self._direct.append(run_manager is None)
        if self.fails:
            raise ConnectionResetError("peer went away")
        message = AIMessage(
            "\n".join(labels) or "a sentence",
            response_metadata={"model_name": "m-1", "readout": "text"},
            usage_metadata=UsageMetadata(input_tokens=3, output_tokens=5, total_tokens=8),
        )
        told = {"finish_reason": "stop", "model_name": "overruled by the message's own"}
        generation = ChatGeneration(message=message, generation_info=told)
        return ChatResult(generations=[generation], llm_output={"id": "7", "finish_reason": "overruled by the choice"})

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **options: Any
    ) -> ChatResult:
        return self._generate(messages, stop, run_manager, **options)


class Listener(BaseCallbackHandler):
    """Keeps what it is told of chat models."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answered: list[str] = []
        self.failed: list[str] = []

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self.asked.append((str(messages[0][-1].text), kwargs["invocation_params"].get("labels")))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        self.answered.append(response.generations[0][0].text)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.failed.append(str(error))


Ask = Callable[..., BaseMessage]


def by_thread(chat: RankingChat, labels: tuple[str, ...] = LABELS, **config: Any) -> BaseMessage:
    return RunnableLambda(lambda _: chat.ask(PROMPT, labels)).invoke(None, config)  # type: ignore[arg-type]


def by_loop(chat: RankingChat, labels: tuple[str, ...] = LABELS, **config: Any) -> BaseMessage:
    async def ask(_: None) -> BaseMessage:
        return await chat.aask(PROMPT, labels)

    return asyncio.run(RunnableLambda(ask).ainvoke(None, config))  # type: ignore[arg-type]


EVERY_WAY = pytest.mark.parametrize("ask", [by_thread, by_loop])


@EVERY_WAY
@pytest.mark.parametrize("labels", [LABELS, ()])
def test_with_and_without_a_listener_the_answer_is_the_same(ask: Ask, labels: tuple[str, ...]) -> None:
    chat = TellingChat()
    unheard, heard = ask(chat, labels), ask(chat, labels, callbacks=[Listener()])
    assert chat.direct == [True, False]
    assert unheard.model_dump(exclude={"id"}) == heard.model_dump(exclude={"id"})  # LangChain's id is the trace's
    assert unheard.response_metadata == {"id": "7", "finish_reason": "stop", "model_name": "m-1", "readout": "text"}


@EVERY_WAY
def test_a_listener_hears_every_request_whole(ask: Ask) -> None:
    chat, listener = TellingChat(), Listener()
    ask(chat, callbacks=[listener])
    ask(chat, (), callbacks=[listener])
    assert listener.asked == [("rank", LABELS), ("rank", None)]
    assert listener.answered == ["1\n2\n3", "a sentence"]
    with pytest.raises(ConnectionResetError):
        ask(TellingChat(fails=True), callbacks=[listener])
    assert listener.failed == ["peer went away"]


@contextmanager
def global_cache() -> Iterator[dict[str, Any]]:
    set_llm_cache(InMemoryCache())
    yield {}
    set_llm_cache(None)


@contextmanager
def debugging() -> Iterator[dict[str, Any]]:
    set_debug(True)
    yield {}
    set_debug(False)


class Allowing(BaseRateLimiter):
    """Lets everybody through."""

    def acquire(self, *, blocking: bool = True) -> bool:
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return True


@contextmanager
def of_the_model(**fields: Any) -> Iterator[dict[str, Any]]:
    yield fields


@EVERY_WAY
@pytest.mark.parametrize(
    "listening",
    [
        global_cache,
        debugging,
        lambda: of_the_model(callbacks=[Listener()]),
        lambda: of_the_model(verbose=True),
        lambda: of_the_model(cache=InMemoryCache()),
        lambda: of_the_model(rate_limiter=Allowing()),
    ],
    ids=["global cache", "debug", "callbacks", "verbose", "cache", "rate limiter"],
)
def test_whatever_of_langchains_is_set_is_told(ask: Ask, listening: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as fields:
        chat = TellingChat(**fields)
        ask(chat)
    assert chat.direct == [False]


@EVERY_WAY
def test_a_tracer_of_the_context_is_told(ask: Ask) -> None:
    """LangSmith's, which the environment turns on, is found in the same way."""
    chat = TellingChat()
    with collect_runs() as collector:
        ask(chat)
    assert chat.direct == [False]
    assert [child.run_type for run in collector.traced_runs for child in run.child_runs] == ["llm"]


def test_a_listener_of_a_graph_hears_every_call_of_its_port() -> None:
    """The graph hands its config on by a context variable, through threads and event loops."""
    catalogue, chat, listener = load_catalogue(), TellingChat(), Listener()
    port = ModelPort(spec="telling:1", model=chat, store=ResponseStore(), budget=Budget())
    policies = {"manual": manual_policy(catalogue)}
    graph = build_rank_graph(Resources(catalogue=catalogue, recommender=port, policies=policies))
    items = [Item(item_id=str(n), title=f"Film {n}") for n in range(3)]

    def user(name: str) -> RankInput:
        return RankInput(user_id=name, history=items[:1], candidates=items)

    graph.with_config(callbacks=[listener]).invoke(user("a"), context=Context())
    asyncio.run(graph.ainvoke(user("b"), {"callbacks": [listener]}, context=Context()))
    assert port.budget.used.calls == len(listener.asked) == len(listener.answered) == len(chat.direct) > 0
    assert not any(chat.direct)
    run_batch(graph, [user("c")], Context(), n_steps=1)
    assert chat.direct[-1], "there is nobody to tell"


@pytest.mark.parametrize("complete", ["complete", "acomplete"])
def test_a_port_says_the_same_of_a_failure_that_nobody_listens_to(complete: str) -> None:
    port = ModelPort(spec="telling:1", model=TellingChat(fails=True), store=ResponseStore(), budget=Budget())
    call = ModelCall(messages=(Message(role="user", content="a"),), split="train")
    with pytest.raises(ModelCallError, match=r"telling:1 failed once.*ConnectionResetError: peer went away"):
        port.complete(call) if complete == "complete" else asyncio.run(port.acomplete(call))
    assert port.budget.used.calls == port.store.requests == 1
