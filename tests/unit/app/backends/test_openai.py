"""The OpenAI client: what it asks a server for each readout, what it makes of the answers, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("langchain_openai")

from langchain_core.messages import HumanMessage

from promptailor.app.backends import resolve_model
from promptailor.app.backends.openai import OpenAIChat
from promptailor.app.backends.openai_readouts import (
    LABELS_HEADER,
    label_log_probs,
    ranking_by,
    ranking_format,
    structured_ranking,
)
from promptailor.app.backends.permutation_grammar import permutation_grammar
from promptailor.app.backends.ranking_chat import ReadoutFallbackError
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

Reply = tuple[int, dict[str, Any]]
LABELS = ("1", "2", "3")


class ScriptedServer:
    """Answers requests with the replies it was given, in order, and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                script.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                script.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, reply = script.replies.pop(0)
                body = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Print nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def chat(self, options: str = "") -> OpenAIChat:
        chat = resolve_model(f"openai:m?base_url={self.url}{options}", Settings())
        assert isinstance(chat, OpenAIChat)
        return chat


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    script = ScriptedServer()
    thread = threading.Thread(target=script.http.serve_forever, args=(0.01,))
    thread.start()
    yield script
    script.http.shutdown()
    thread.join()
    script.http.server_close()


def completion(text: str, top: Sequence[tuple[str, float]] | None = None, role: str = "assistant") -> Reply:
    logprobs = None
    if top is not None:
        entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
        logprobs = {"content": [{**entries[0], "top_logprobs": entries}] if entries else [], "refusal": None}
    choice = {
        "index": 0,
        "message": {"role": role, "content": text},
        "logprobs": logprobs,
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m-1", "choices": [choice], "usage": usage}
    return 200, body


def refusal(message: str, status: int = 400) -> Reply:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def test_text_is_what_the_server_wrote(server: ScriptedServer) -> None:
    server.replies = [completion("2, 1")]
    answer = server.chat("&temperature=0.5&max_tokens=9&seed=3").invoke("rank", labels=LABELS)
    assert answer.text == "2, 1"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 9
    assert answer.response_metadata["readout"] == "text"
    assert answer.response_metadata["model_name"] == "m-1"
    sent = server.bodies[0]
    assert (sent["temperature"], sent["max_completion_tokens"], sent["seed"]) == (0.5, 9, 3)
    assert not {"labels", "logprobs", "response_format"} & sent.keys()


@pytest.mark.parametrize("readout", ["text", "structured", "first_token"])
def test_without_labels_every_readout_writes(server: ScriptedServer, readout: str) -> None:
    server.replies = [completion("a better sentence")]
    answer = server.chat(f"&readout={readout}").invoke("rewrite")
    assert answer.text == "a better sentence"
    assert answer.response_metadata["readout"] == "text"
    assert "fallback" not in answer.response_metadata
    assert not {"logprobs", "response_format"} & server.bodies[0].keys()


def test_a_schema_names_the_labels_and_its_json_becomes_lines(server: ScriptedServer) -> None:
    server.replies = [completion('{"ranking": ["3", "1", "2"]}')]
    answer = server.chat("&readout=structured").invoke("rank", labels=LABELS)
    assert answer.text == "3\n1\n2"
    assert answer.response_metadata["readout"] == "structured"
    sent = server.bodies[0]["response_format"]
    assert sent == ranking_format(LABELS)
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["properties"]["ranking"] == {
        "type": "array",
        "items": {"type": "string", "enum": ["1", "2", "3"]},
        "minItems": 3,
        "maxItems": 3,
    }


def test_a_grammar_of_a_permutation_is_sent_to_servers_that_know_it(server: ScriptedServer) -> None:
    server.replies = [completion("3\n1\n2"), completion("no ranking")]
    chat = server.chat("&readout=structured&grammar=llguidance")
    answer = chat.invoke("rank", labels=LABELS)
    assert (answer.text, answer.response_metadata["readout"]) == ("3\n1\n2", "structured")
    assert server.bodies[0]["structured_outputs"] == {"grammar": permutation_grammar(LABELS)}
    assert "response_format" not in server.bodies[0]
    ignored = chat.invoke("rank", labels=LABELS)
    assert (ignored.text, ignored.response_metadata["readout"]) == ("no ranking", "text")
    assert ignored.response_metadata["fallback"] == "the answer does not follow the schema"


@pytest.mark.parametrize("text", ['{"ranking": ["3", "1"', "2, 1, 3", "", "[1, 2]", '{"ranking": 1}', "[" * 10_000])
def test_what_is_no_such_json_is_handed_on_as_it_is(server: ScriptedServer, text: str) -> None:
    server.replies = [completion(text)]
    answer = server.chat("&readout=structured").invoke("rank", labels=LABELS)
    assert answer.text == text
    assert answer.response_metadata["readout"] == "text"
    assert answer.response_metadata["fallback"] == "the answer does not follow the schema"


def test_the_first_token_ranks_by_its_log_probabilities(server: ScriptedServer) -> None:
    top = [("The", -0.1), (" 2", -2.0), ("3", -3.0), ("2", -4.0), ("1.", -5.0)]
    server.replies = [completion("The", top)]
    answer = server.chat("&readout=first_token&max_tokens=50").invoke("rank", labels=LABELS)
    assert answer.text == "2\n3\n1"
    told = answer.response_metadata
    assert (told["readout"], told["labels_seen"]) == ("first_token", 2)
    assert set(told["label_log_probs"]) == {"2", "3"}
    assert math.isclose(sum(map(math.exp, told["label_log_probs"].values())), 1.0)
    odds = math.exp(told["label_log_probs"]["2"] - told["label_log_probs"]["3"])
    assert math.isclose(odds, (math.exp(-2.0) + math.exp(-4.0)) / math.exp(-3.0))
    assert "logprobs" not in told
    sent = server.bodies[0]
    assert (sent["max_completion_tokens"], sent["logprobs"], sent["top_logprobs"]) == (1, True, 20)
    assert json.loads(server.headers[0][LABELS_HEADER.lower()]) == ["1", "2", "3"]


@pytest.mark.parametrize("readout", ["text", "structured", "first_token"])
def test_coroutines_are_answered_as_threads_are(server: ScriptedServer, readout: str) -> None:
    """They have a client of their own."""
    status, reply = completion('{"ranking": ["3", "1", "2"]}', [("2", -0.1), ("1", -2.0)])
    server.replies = [(status, reply)] * 3
    chat = server.chat(f"&readout={readout}&max_tokens=9")
    by_thread = chat.invoke("rank", labels=LABELS)
    heard = asyncio.run(chat.ainvoke("rank", labels=LABELS))
    unheard = asyncio.run(chat.aask([HumanMessage("rank")], LABELS))
    assert heard.model_dump(exclude={"id"}) == unheard.model_dump(exclude={"id"})
    assert (heard.text, heard.usage_metadata) == (by_thread.text, by_thread.usage_metadata)
    for name in ("readout", "label_log_probs", "fallback", "model_name", "finish_reason"):
        assert heard.response_metadata.get(name) == by_thread.response_metadata.get(name)
    assert server.bodies[0] == server.bodies[1] | {"stream": False} == server.bodies[2] | {"stream": False}
    sent = [(headers["authorization"], headers.get(LABELS_HEADER.lower())) for headers in server.headers]
    assert sent[0] == sent[1] == sent[2]


@pytest.mark.filterwarnings("ignore:Invalid schema for OpenAI")
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (refusal("logprobs are not supported"), ReadoutFallbackError),
        (refusal("Input tokens exceed the configured limit"), openai.BadRequestError),
        (refusal("no such key", 401), openai.AuthenticationError),
        (refusal("slow down", 429), openai.RateLimitError),
        (refusal("broken", 500), openai.InternalServerError),
        (completion("2"), ReadoutFallbackError),
        (completion("2", role="user"), ValueError),
        ((200, {"choices": []}), ValueError),
        ((200, {"choices": None}), TypeError),
        ((200, {"error": {"message": "out of memory"}}), ValueError),
    ],
)
def test_coroutines_fail_as_threads_do(server: ScriptedServer, reply: Reply, kind: type[Exception]) -> None:
    said = []
    for ask in (OpenAIChat.invoke, lambda chat, *args, **options: asyncio.run(chat.ainvoke(*args, **options))):
        server.replies = [reply]
        with pytest.raises(kind) as caught:
            ask(server.chat("&readout=first_token"), "rank", labels=LABELS)
        said.append((str(caught.value).partition("Full response keys")[0], getattr(caught.value, "status_code", None)))
    assert said[0] == said[1]


def test_the_proxy_that_the_environment_names_is_asked_except_for_hosts_it_is_not_for(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.replies = [completion("1"), completion("2")]
    far = resolve_model("openai:m?base_url=http://models.invalid/v1", Settings())
    assert asyncio.run(far.ainvoke("rank")).text == "1"
    assert server.headers[0]["host"] == "models.invalid"
    assert asyncio.run(server.chat().ainvoke("rank")).text == "2"
    assert server.headers[1]["host"] == f"127.0.0.1:{server.http.server_port}"


def test_where_no_label_is_seen_the_token_is_left_to_the_parser(server: ScriptedServer) -> None:
    server.replies = [completion("Sure", [("Sure", -0.1), ("Here", -3.0)])]
    answer = server.chat("&readout=first_token").invoke("rank", labels=LABELS)
    assert answer.text == "Sure"
    assert answer.response_metadata["labels_seen"] == 0


def test_a_server_without_log_probabilities_is_asked_by_schema_from_then_on(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    chat = server.chat("&readout=first_token")
    server.replies = [completion("2"), completion('{"ranking": ["2", "1", "3"]}'), completion("{}")]
    with pytest.raises(ReadoutFallbackError, match="no log-probabilities"):
        chat.invoke("rank", labels=LABELS)
    answer = chat.invoke("rank", labels=LABELS)
    assert answer.text == "2\n1\n3"
    assert answer.response_metadata["readout"] == "structured"
    assert answer.response_metadata["fallback"] == "the server sends no log-probabilities"
    assert chat.invoke("rank", labels=LABELS).response_metadata["readout"] == "text"
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]
    assert len(caplog.records) == 1


def test_requests_in_flight_together_are_told_of_one_failure_once(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    chat = server.chat("&readout=first_token")
    server.replies = [completion("2")] * 8
    together = threading.Barrier(8)
    outcomes: list[str] = []

    def ask() -> None:
        together.wait()
        try:
            outcomes.append(chat.invoke("rank", labels=LABELS).response_metadata["readout"])
        except ReadoutFallbackError:
            outcomes.append("raised")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("logprobs" in body for body in server.bodies) == outcomes.count("raised") >= 1
    assert len(caplog.records) == 1


def test_a_server_that_has_sent_log_probabilities_is_not_given_up_for_one_answer_without(
    server: ScriptedServer,
) -> None:
    chat, good = server.chat("&readout=first_token"), completion("2", [("2", -0.1), ("1", -2.0)])
    server.replies = [good, completion(""), refusal("logprobs: try later", 422), good]
    first = chat.invoke("rank", labels=LABELS)
    with pytest.raises(ValueError, match="no log-probabilities this time"):
        chat.invoke("rank", labels=LABELS)
    with pytest.raises(openai.UnprocessableEntityError):
        chat.invoke("rank", labels=LABELS)
    assert chat.invoke("rank", labels=LABELS).text == first.text


@pytest.mark.filterwarnings("ignore:Invalid schema for OpenAI")  # LangChain's advice, which is for another method
@pytest.mark.parametrize(
    ("no_log_probs", "no_schema"),
    [
        ("logprobs are not supported with reasoning models", "Invalid schema for response_format 'ranking'"),
        ("Requested sample logprobs of 20, which is greater than max allowed: 5", "Grammar error: Unimplemented keys"),
    ],
    ids=["as OpenAI says it", "as vLLM says it"],
)
def test_refusals_of_a_readout_step_down_to_text(server: ScriptedServer, no_log_probs: str, no_schema: str) -> None:
    chat = server.chat("&readout=first_token")
    server.replies = [
        refusal(no_log_probs),
        refusal(no_schema),
        completion("3, 1"),
    ]
    for readout in ("structured", "text"):
        with pytest.raises(ReadoutFallbackError, match=f"readout {readout} from now on"):
            chat.invoke("rank", labels=LABELS)
    answer = chat.invoke("rank", labels=LABELS)
    assert answer.text == "3, 1"
    assert answer.response_metadata["fallback"] == (
        "the server refuses what first_token needs; the server refuses what structured needs"
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
    ],
)
@pytest.mark.parametrize("readout", ["text", "structured", "first_token"])
def test_refusals_of_the_request_stay_what_they_are(
    server: ScriptedServer, status: int, kind: type[Exception], readout: str
) -> None:
    chat = server.chat(f"&readout={readout}")
    server.replies = [refusal("this prompt is too long", status)] * 2
    for _ in range(2):
        with pytest.raises(kind):
            chat.invoke("rank", labels=LABELS)
    assert len({json.dumps(body) for body in server.bodies}) == 1


def test_a_cut_answer_is_no_error(server: ScriptedServer) -> None:
    """It is paid for; OpenAI's own parser of schemas raises."""
    status, body = completion('{"ranking": ["2", "1')
    body["choices"][0]["finish_reason"] = "length"
    server.replies = [(status, body)]
    assert server.chat("&readout=structured").invoke("rank", labels=LABELS).text == '{"ranking": ["2", "1'


def test_a_caller_that_streams_gets_the_ranking_in_one_piece(server: ScriptedServer) -> None:
    """LangGraph streams whatever can stream; a ranking is only known at its end."""
    server.replies = [completion('{"ranking": ["3", "1", "2"]}')]
    chunks = list(server.chat("&readout=structured").stream("rank", labels=LABELS))
    assert [str(chunk.text) for chunk in chunks] == ["3\n1\n2"]
    assert not server.bodies[0].get("stream")


def test_an_answer_in_another_role_or_without_a_choice_is_an_error(server: ScriptedServer) -> None:
    server.replies = [completion("2", role="user"), (200, completion("")[1] | {"choices": []})]
    for _ in range(2):
        with pytest.raises(ValueError, match="no assistant message"):
            server.chat().invoke("rank")


def test_first_tokens_bound_the_candidates() -> None:
    chats = [
        resolve_model(f"openai:m?base_url=http://h/v1&readout={readout}", Settings()) for readout in OpenAIChat.readouts
    ]
    assert [getattr(chat, "max_candidates", None) for chat in chats] == [None, None, 20]


def test_the_key_of_one_server_is_its_own(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    server.replies = [completion("1")] * 2
    own = server.chat("&api_key_env=OTHER_KEY")
    own.invoke("rank")
    server.chat().invoke("rank")
    assert [headers["authorization"] for headers in server.headers] == ["Bearer sk-other", "Bearer sk-openai"]
    assert "sk-other" not in f"{own!r} {own} {own.asdict()}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "set OPENAI_API_KEY"),
        ("?base_url=localhost", "base_url is an address"),
        ("?base_url=ftp://h/v1", "base_url is an address"),
        ("?base_url=http://h/v1&readout=grammar", "readout is text or structured or first_token"),
        ("?base_url=http://h/v1&timeout=soon", "timeout is a number"),
        ("?base_url=http://h/v1&api_key_env=NO_SUCH_KEY", "NO_SUCH_KEY is not set"),
        ("?base_url=http://h/v1&top_p=1", "unknown option 'top_p'"),
    ],
)
def test_a_wrong_option_is_one_line(options: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolve_model(f"openai:m{options}", Settings())


@pytest.mark.parametrize("options", ["api_key_env=sk-secret", "base_url=http://me:sk-secret@h/v1"])
def test_a_secret_in_a_model_string_is_not_repeated(options: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolve_model(f"openai:m?{options}", Settings())
    assert "sk-secret" not in str(caught.value)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "top_logprobs", "token", "logprob", "ranking"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.fixed_dictionaries({"token": st.sampled_from(["1", " 2", "x"]), "logprob": st.floats() | JSON})))
def test_no_number_a_server_may_send_breaks_the_reading(top: list[dict[str, Any]]) -> None:
    log_probs = label_log_probs({"content": [{"top_logprobs": top}]}, LABELS)
    assert (log_probs is None) == (not top)
    assert all(value <= 1e-9 for value in (log_probs or {}).values())


@given(JSON)
def test_reading_is_total(answer: Any) -> None:
    log_probs = label_log_probs(answer, LABELS)
    assert log_probs is None or set(log_probs) <= set(LABELS)
    ranking = structured_ranking(json.dumps(answer), "json_schema")
    assert ranking is None or all(isinstance(label, str) for label in ranking)


@given(st.dictionaries(st.sampled_from("12345678"), st.floats(-30, 0)), st.permutations(list("12345678")))
def test_a_ranking_holds_every_label_once_and_unseen_ones_last(log_probs: dict[str, float], labels: list[str]) -> None:
    ranking = ranking_by(log_probs, labels)
    assert sorted(ranking) == sorted(labels)
    seen = [label for label in ranking if label in log_probs]
    assert ranking[: len(seen)] == seen
    assert [log_probs[label] for label in seen] == sorted((log_probs[label] for label in seen), reverse=True)
    assert ranking[len(seen) :] == [label for label in labels if label not in log_probs]
