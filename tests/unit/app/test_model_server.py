"""`promptailor serve-model`: the protocol, its refusals, and requests that reach a model together."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr, SecretStr

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from promptailor.app.backends.gather import Gatherer
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.chat_completions import parsed_labels
from promptailor.app.model_server import MAX_BODY_BYTES, model_app, serve_model
from promptailor.prompts.errors import InputError, SpecError

HELLO = [{"role": "user", "content": "rank"}]


class GatheringChat(RankingChat):
    """Ranks labels from last to first, in batches whose sizes it keeps; else it writes what it was asked."""

    in_process: ClassVar[bool] = True

    _batches: list[int] = PrivateAttr(default_factory=list)
    _gatherer: Any = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._gatherer = Gatherer(self._answer, 64)

    @property
    def batches(self) -> list[int]:
        return self._batches

    @property
    def _llm_type(self) -> str:
        return "gathering"

    def _answer(self, texts: list[str]) -> list[str]:
        self._batches.append(len(texts))
        return texts

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise AssertionError("the server has an event loop")

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        prompt = " | ".join(f"{m.type}: {m.text}" for m in messages)
        if "break" in prompt:
            raise RuntimeError("secret detail")
        if "refuse" in prompt:
            raise InputError("the prompt is not to be read")
        text = await asyncio.wrap_future(self._gatherer.submit(prompt))
        labels: Sequence[str] = kwargs.get("labels", ())
        log_probs = {label: -float(n) for n, label in enumerate(reversed(labels))}
        message = AIMessage("\n".join(log_probs) or text, response_metadata={"label_log_probs": log_probs})
        return ChatResult(generations=[ChatGeneration(message=message)])


def schema(labels: Sequence[str]) -> dict[str, Any]:
    array = {"type": "array", "items": {"type": "string", "enum": list(labels)}}
    return {"type": "json_schema", "json_schema": {"name": "r", "schema": {"properties": {"ranking": array}}}}


class Client:
    """Asks an application without a socket between."""

    def __init__(self, model: RankingChat | None = None, **options: Any) -> None:
        self.app = model_app(model or GatheringChat(), "own:model", **options)

    async def requests(self, bodies: Sequence[Any], headers: dict[str, str] | None = None) -> list[httpx.Response]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await asyncio.gather(
                *(
                    client.post(
                        "/v1/chat/completions",
                        content=body if isinstance(body, bytes) else json.dumps(body),
                        headers=headers,
                    )
                    for body in bodies
                )
            )

    def post(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return asyncio.run(self.requests([{"model": "own:model", "messages": HELLO, **body}], headers))[0]

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(ask())


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def test_an_answer_has_the_protocols_shape() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "rank "}, {"type": "text", "text": "these"}]},
    ]
    body = Client().post(messages=messages, temperature=0.7, seed=1, user="x").json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "own:model"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "system: be brief | human: rank these", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_concurrent_requests_reach_the_model_together() -> None:
    model = GatheringChat()
    bodies = [{"model": "own:model", "messages": [{"role": "user", "content": str(n)}]} for n in range(48)]
    answers = asyncio.run(Client(model).requests(bodies))
    assert [text_of(answer) for answer in answers] == [f"human: {n}" for n in range(48)]
    assert sum(model.batches) == 48
    assert len(model.batches) <= 12


@pytest.mark.parametrize("by_header", [True, False])
def test_labels_are_ranked_and_their_log_probabilities_told(by_header: bool) -> None:
    labels = ["1", "2", "3"]
    headers, fields = ({"X-Candidate-Labels": json.dumps(labels)}, {}) if by_header else (None, {"labels": labels})
    response = Client().post(headers, **fields, logprobs=True, top_logprobs=2, max_tokens=1)
    assert text_of(response) == "3"
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "length"
    [first] = choice["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("3", 0.0, [ord("3")])
    assert [(entry["token"], entry["logprob"]) for entry in first["top_logprobs"]] == [("3", 0.0), ("2", -1.0)]


def test_without_labels_there_are_no_log_probabilities() -> None:
    assert Client().post(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"] is None


def test_a_schema_is_held_to() -> None:
    assert json.loads(text_of(Client().post(response_format=schema(["1", "2", "3"])))) == {"ranking": ["3", "2", "1"]}


@pytest.mark.parametrize(
    ("text", "labels", "order"),
    [
        ("2. Alien\n1. Heidi", ["1", "2", "3"], ["2", "1", "3"]),
        ("3 > 1 > 2", ["1", "2", "3"], ["3", "1", "2"]),
        ("I cannot", ["1", "2"], ["1", "2"]),
        ("B\nA", ["A", "B", "C"], ["B", "A", "C"]),
    ],
)
def test_a_written_answer_is_read_as_any_other(text: str, labels: list[str], order: list[str]) -> None:
    assert parsed_labels(text, labels) == order


def test_stop_and_limit_cut_what_the_model_ignores() -> None:
    messages = [{"role": "user", "content": "one two  three\nfour"}]
    assert text_of(Client().post(messages=messages, stop=" three")) == "human: one two "
    cut = Client().post(messages=messages, max_completion_tokens=4)
    assert text_of(cut) == "human: one two  three"
    assert cut.json()["choices"][0]["finish_reason"] == "length"
    assert text_of(Client().post(messages=messages, max_tokens=5)) == "human: one two  three\nfour"


def test_a_stream_adds_up_to_the_answer() -> None:
    messages = [{"role": "user", "content": "one\ntwo\nthree"}]
    response = Client().post(messages=messages, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, end = response.text.removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert end == "data: [DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == "human: one\ntwo\nthree"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "another"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"top_logprobs": 21}, 400, "top_logprobs"),
        ({"n": 2}, 400, "n"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"response_format": schema(["1", "1"])}, 400, "response_format"),
        ({"labels": [1, {}]}, 400, "labels.0"),
        ({"messages": [{"role": "user", "content": "refuse"}]}, 400, None),
        ({"messages": [{"role": "user", "content": "break"}]}, 500, None),
    ],
)
def test_what_cannot_be_answered_is_told_in_the_protocols_shape(
    changes: dict[str, Any], status: int, param: str | None
) -> None:
    response = Client().post(**changes)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["message"]
    assert "secret detail" not in response.text
    assert error["type"] == ("server_error" if status == 500 else "invalid_request_error")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": "own:model"}', b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    [response] = asyncio.run(Client().requests([body]))
    assert response.status_code == 400
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("header", ["1,2", "[1]", "{}", '["1"'])
def test_a_header_that_is_no_list_of_labels_is_refused(header: str) -> None:
    response = Client().post({"X-Candidate-Labels": header})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_a_body_has_a_limit() -> None:
    [response] = asyncio.run(Client().requests([b" " * (MAX_BODY_BYTES + 1)]))
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_models_and_health_are_listed() -> None:
    client = Client()
    assert client.get("/health").json() == {"status": "ok"}
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["own:model"]
    assert client.get("/v1/nothing").json()["error"]["message"] == "Not Found"


def test_a_key_is_asked_for_where_there_is_one() -> None:
    client = Client(api_key=SecretStr("sk-own-key"))
    right, wrong = {"Authorization": "Bearer sk-own-key"}, {"Authorization": "Bearer sk-other"}
    assert client.post(right).status_code == client.get("/v1/models", right).status_code == 200
    for headers in (None, wrong):
        refused = client.post(headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert "sk-own-key" not in refused.text
        assert client.get("/v1/models", headers).status_code == 401
    assert client.get("/health").status_code == 200


def test_what_cannot_be_served_is_one_line() -> None:
    with pytest.raises(SpecError, match="planted:no-such"):
        serve_model("planted:no-such", ready=print)
    with pytest.raises(InputError, match=r"--api-key-env NO_SUCH_KEY: the environment variable is not set"):
        serve_model("planted:1", api_key_env="NO_SUCH_KEY", ready=print)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: .*name another port, or 0"):
            serve_model("planted:1", port=port, ready=print)


def test_the_command_says_one_line_answers_late_and_stops_at_an_interrupt() -> None:
    promptailor = str(Path(sys.executable).with_name("promptailor"))
    with subprocess.Popen(
        [promptailor, "serve-model", "planted:1", "--port", "0", "--latency-ms", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("Serving planted:1 at http://127.0.0.1:")
        url = line.split()[-1]
        response = httpx.post(f"{url}/chat/completions", json={"model": "planted:1", "messages": HELLO}, timeout=30)
        assert text_of(response) == "There are no candidates to rank."
        assert response.elapsed.total_seconds() >= 0.2
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() + process.stderr.read() == ""
