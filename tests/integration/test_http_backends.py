"""Models over HTTP: the same answers as in process, by each readout, and no fault that is not told."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import httpx
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from promptailor.app.backends import resolve_model
from promptailor.app.backends.budget import Budget
from promptailor.app.backends.openai import OpenAIChat
from promptailor.app.backends.planted import PlantedChat
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.ranking_chat import ReadoutFallbackError
from promptailor.app.backends.store import ResponseStore
from promptailor.app.settings import Settings
from promptailor.evals.types import EvalCase
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.llm import ModelCall
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import Catalogue
from tests.integration.fault_proxy import FAULTS, Fault, FaultProxy
from tests.integration.servers import served_model

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

FilmPrompt = Callable[..., AssembledPrompt]
KEY = "sk-a-key-that-nobody-may-see"
KEY_VARIABLE = "OWN_SERVER_KEY"


def client(model: str, url: str, options: str = "") -> OpenAIChat:
    chat = resolve_model(f"openai:{model}?base_url={url}{options}", Settings())
    assert isinstance(chat, OpenAIChat)
    return chat


def in_process(folder: Path, readout: str) -> BaseChatModel:
    return resolve_model(f"embedded:{folder}?readout={readout}", Settings())


def messages_of(prompt: AssembledPrompt) -> list[BaseMessage]:
    return [SystemMessage(prompt.system), HumanMessage(prompt.user)] if prompt.system else [HumanMessage(prompt.user)]


def asked(chat: OpenAIChat, prompts: Sequence[AssembledPrompt], *, labelled: bool = True) -> list[AIMessage]:
    """Ask for all at once, from threads."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda p: chat.invoke(messages_of(p), labels=p.labels if labelled else ()), prompts))


@pytest.fixture(scope="module")
def planted_prompts(cases: Sequence[EvalCase], catalogue: Catalogue) -> list[AssembledPrompt]:
    """Two hundred prompts for forty users."""
    return [
        assemble(case.request, catalogue.manual_prompt, catalogue, seed=seed) for case, seed in product(cases, range(5))
    ]


@pytest.fixture
def film_prompts(film_prompt: FilmPrompt) -> list[AssembledPrompt]:
    return [film_prompt(f"u{n}", n_history=n % 13, n_candidates=4 + n % 7) for n in range(24)]


def test_the_planted_model_answers_over_http_as_it_does_in_process(
    planted_server: str, planted_prompts: list[AssembledPrompt]
) -> None:
    model = PlantedChat.from_world("1", seed=0)
    answers = asked(client("planted:1", planted_server), planted_prompts)
    for prompt, answer in zip(planted_prompts, answers, strict=True):
        own = model.invoke(messages_of(prompt))
        assert (answer.text, answer.usage_metadata) == (own.text, answer.usage_metadata)
        assert own.usage_metadata is not None
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["total_tokens"] == own.usage_metadata["total_tokens"]


def test_coroutines_get_the_same_answers(planted_server: str, planted_prompts: list[AssembledPrompt]) -> None:
    chat, model, prompts = (
        client("planted:1", planted_server),
        PlantedChat.from_world("1", seed=0),
        planted_prompts[:20],
    )

    async def gather() -> list[AIMessage]:
        return await asyncio.gather(*(chat.ainvoke(messages_of(p), labels=p.labels) for p in prompts))

    assert [a.text for a in asyncio.run(gather())] == [model.invoke(messages_of(p)).text for p in prompts]


def test_streamed_text_is_the_same_text(planted_server: str, planted_prompts: list[AssembledPrompt]) -> None:
    plain = ChatOpenAI(model="planted:1", base_url=planted_server, api_key="none", stream_usage=True)
    messages = messages_of(planted_prompts[0])
    whole = plain.invoke(messages)
    chunks = list(plain.stream(messages))
    assert len(chunks) > 5
    assert "".join(str(chunk.text) for chunk in chunks) == whole.text
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.usage_metadata is not None
    assert whole.usage_metadata is not None
    assert total.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


def test_a_schema_leaves_no_invalid_answer(planted_server: str, planted_prompts: list[AssembledPrompt]) -> None:
    """The planted model refuses some prompts; a server that holds to the schema cannot."""
    for prompt, answer in zip(
        planted_prompts,
        asked(client("planted:1", planted_server, "&readout=structured"), planted_prompts),
        strict=True,
    ):
        report = parse_ranking(answer.text, prompt.shown).report
        assert (report.n_missing, report.n_unknown, report.n_duplicate) == (0, 0, 0)
        assert answer.response_metadata["readout"] == "structured"
        assert "fallback" not in answer.response_metadata


def test_a_schema_does_not_change_the_ranking(planted_server: str, planted_prompts: list[AssembledPrompt]) -> None:
    model, prompts = PlantedChat.from_world("1", seed=0), planted_prompts[:50]
    for prompt, answer in zip(
        prompts, asked(client("planted:1", planted_server, "&readout=structured"), prompts), strict=True
    ):
        own = parse_ranking(model.invoke(messages_of(prompt)).text, prompt.shown)
        assert parse_ranking(answer.text, prompt.shown).order == own.order


def test_written_answers_are_those_of_the_process(
    embedded_server: str, trained_lm: Path, film_prompts: list[AssembledPrompt]
) -> None:
    own = in_process(trained_lm, "text")
    answers = asked(client(f"embedded:{trained_lm}", embedded_server, "&max_tokens=24"), film_prompts)
    assert [answer.text for answer in answers] == [
        own.invoke(messages_of(prompt), max_new_tokens=24).text for prompt in film_prompts
    ]


def test_first_tokens_rank_as_in_process(
    embedded_server: str, trained_lm: Path, film_prompts: list[AssembledPrompt]
) -> None:
    own = in_process(trained_lm, "first_token")
    answers = asked(client(f"embedded:{trained_lm}", embedded_server, "&readout=first_token"), film_prompts)
    for prompt, answer in zip(film_prompts, answers, strict=True):
        expected = own.invoke(messages_of(prompt), labels=prompt.labels)
        told = answer.response_metadata
        assert answer.text == expected.text
        assert (told["readout"], told["labels_seen"]) == ("first_token", len(prompt.labels))
        assert "logprobs" not in told
        for label, value in expected.response_metadata["label_log_probs"].items():
            assert math.isclose(told["label_log_probs"][label], value, abs_tol=2e-4)


def test_another_server_with_the_same_weights_writes_the_same(
    hf_server: str, trained_lm: Path, film_prompts: list[AssembledPrompt]
) -> None:
    own = in_process(trained_lm, "text")
    chat = client(str(trained_lm), hf_server, "&max_tokens=24")
    for prompt in film_prompts[:8]:
        assert chat.invoke(messages_of(prompt)).text == own.invoke(messages_of(prompt), max_new_tokens=24).text


def test_a_server_without_log_probabilities_costs_one_request(
    hf_server: str, trained_lm: Path, film_prompts: list[AssembledPrompt], caplog: pytest.LogCaptureFixture
) -> None:
    """`transformers serve` sends no log-probabilities and ignores schemas."""
    with FaultProxy(hf_server, rate=0.0) as proxy:
        chat = client(str(trained_lm), proxy.url, "&readout=first_token&max_tokens=24")
        text = client(str(trained_lm), hf_server, "&max_tokens=24")
        with pytest.raises(ReadoutFallbackError, match="no log-probabilities; readout structured from now on"):
            chat.invoke(messages_of(film_prompts[0]), labels=film_prompts[0].labels)
        for prompt in film_prompts[:3]:
            answer = chat.invoke(messages_of(prompt), labels=prompt.labels)
            assert answer.response_metadata["readout"] == "text"
            assert answer.response_metadata["fallback"] == (
                "the server sends no log-probabilities; the answer does not follow the schema"
            )
            assert answer.text == text.invoke(messages_of(prompt)).text
        assert proxy.requests == 4
    assert sum("no log-probabilities" in record.message for record in caplog.records) == 1


def test_the_request_that_found_no_log_probabilities_is_counted(
    hf_server: str, trained_lm: Path, film_prompts: list[AssembledPrompt]
) -> None:
    prompts = film_prompts[:3]
    with FaultProxy(hf_server, rate=0.0) as proxy:
        chat = client(str(trained_lm), proxy.url, "&readout=first_token&max_tokens=8")
        port = ModelPort(spec="openai:tiny", model=chat, store=ResponseStore(), budget=Budget())
        calls = [ModelCall(messages=prompt.messages, split="test", labels=prompt.labels) for prompt in prompts]
        assert [port.complete(call).calls for call in calls] == [2, 1, 1]
        assert proxy.requests == proxy.passed == port.store.requests == 4


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The planted model, for those who have the key."""
    with served_model(
        "planted:1", tmp_path_factory.mktemp("locked"), "--api-key-env", KEY_VARIABLE, environment={KEY_VARIABLE: KEY}
    ) as url:
        yield url


@pytest.fixture
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.mark.usefixtures("own_key")
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_an_error_or_an_answer_in_time_and_shows_no_key(
    locked_server: str,
    planted_prompts: list[AssembledPrompt],
    fault: Fault,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    messages, labels = messages_of(planted_prompts[0]), planted_prompts[0].labels
    expected = PlantedChat.from_world("1", seed=0).invoke(messages).text
    with FaultProxy(locked_server, script=[fault, None, fault]) as proxy:
        chat = client("planted:1", proxy.url, f"&api_key_env={KEY_VARIABLE}&timeout=2")

        def outcome(ask: Callable[[], AIMessage]) -> str | Exception:
            try:
                return str(ask().text)
            except Exception as error:
                return error

        started = time.monotonic()
        by_thread = outcome(lambda: chat.invoke(messages, labels=labels))
        after = outcome(lambda: chat.invoke(messages, labels=labels))
        by_coroutine = outcome(lambda: asyncio.run(chat.ainvoke(messages, labels=labels)))
        assert time.monotonic() - started < 8.0
        assert proxy.requests == 3
        assert proxy.injected == {fault: 2}
        assert proxy.passed == (3 if fault == "slow" else 1)
    assert after == expected
    for result in (by_thread, by_coroutine):
        match fault:
            case "slow":
                assert result == expected
            case "empty":
                assert result == ""
            case "huge":
                assert isinstance(result, str)
                assert len(result) == 2**20
            case "rate_limit":
                assert isinstance(result, openai.RateLimitError)
                assert float(result.response.headers["retry-after"]) > 0
            case "error" | "unavailable":
                assert isinstance(result, openai.InternalServerError)
            case "hang":
                assert isinstance(result, openai.APITimeoutError)
            case "reset" | "cut_off":
                assert isinstance(result, openai.APIConnectionError)
            case "truncated" | "wrong_role":
                assert isinstance(result, ValueError)
        assert KEY not in f"{result!s} {result!r}"
    assert KEY not in caplog.text
    assert KEY not in f"{chat!r} {chat!s} {chat.asdict()} {chat.model_dump_json(exclude={'client', 'async_client'})}"


@pytest.mark.usefixtures("own_key")
def test_a_wrong_or_missing_key_is_refused_and_not_repeated(
    locked_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert client("planted:1", locked_server, f"&api_key_env={KEY_VARIABLE}").invoke("hi").text
    monkeypatch.setenv(KEY_VARIABLE, KEY[::-1])
    for chat in (
        client("planted:1", locked_server, f"&api_key_env={KEY_VARIABLE}"),
        client("planted:1", locked_server),
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            chat.invoke("hi")
        assert KEY[::-1] not in f"{caught.value} {caught.value!r} {caplog.text}"
    assert httpx.get(f"{locked_server}/models").status_code == 401
    assert httpx.get(f"{locked_server.removesuffix('/v1')}/health").status_code == 200


def test_the_proxys_faults_depend_on_the_request_not_on_who_was_first(planted_server: str) -> None:
    bodies = [json.dumps({"model": "planted:1", "messages": [{"role": "user", "content": str(n)}]}) for n in range(60)]

    def statuses(order: Sequence[str]) -> dict[str, int]:
        with (
            FaultProxy(planted_server, rate=0.3, seed=5, faults=("rate_limit", "error")) as proxy,
            httpx.Client() as http,
        ):
            answers = {body: http.post(f"{proxy.url}/chat/completions", content=body).status_code for body in order}
            assert proxy.requests == 60
            assert proxy.passed == sum(status == 200 for status in answers.values())
            assert proxy.injected.total() == 60 - proxy.passed
        return answers

    first = statuses(bodies)
    assert statuses(bodies[::-1]) == first
    assert 8 <= sum(status != 200 for status in first.values()) <= 30
