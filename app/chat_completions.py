"""The protocol of OpenAI's chat completions as `promptailor serve-model` speaks it: what is asked, what is answered."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from pydantic import BaseModel, Field, ValidationError

from promptailor.app.backends.messages import chat_messages
from promptailor.app.backends.openai_readouts import RANKING, TOP_LOG_PROBS, ranking_by
from promptailor.prompts.domain import Item
from promptailor.prompts.llm import Message
from promptailor.prompts.parse import parse_ranking


class ProtocolError(Exception):
    """A request that is refused, in the shape of OpenAI's errors."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """What the client is told."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Part(BaseModel):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def to_langchain(self) -> BaseMessage:
        """Return the message a chat model reads."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        role = "system" if self.role == "developer" else self.role
        return chat_messages([Message(role=role, content=text)])[0]


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is asked; sampling parameters are accepted and ignored, because the models answer deterministically."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: Literal[1] | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP_LOG_PROBS)
    response_format: dict[str, Any] | None = None
    labels: list[str] | None = None
    """Of the candidates; an extension, which the header `X-Candidate-Labels` does as well."""

    @classmethod
    def parse(cls, body: bytes, labels_header: str | None = None) -> ChatRequest:
        """Read a request.

        Raises:
            ProtocolError: the body is no such request; the message names the field.
        """
        try:
            request = cls.model_validate_json(body)
            if labels_header is not None:
                request.labels = _Labels.model_validate_json(f'{{"labels": {labels_header}}}').labels
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(map(str, first["loc"])) or None
            raise ProtocolError(400, f"{field or 'body'}: {first['msg']}", param=field) from None
        return request

    @property
    def limit(self) -> int | None:
        """Tokens of the answer, at most."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Texts the answer ends before."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def schema_labels(self) -> list[str] | None:
        """Return the labels that the answer's schema permits; None where free text is asked for.

        Raises:
            ProtocolError: another schema than a ranking's.
        """
        match self.response_format:
            case None | {"type": "text"}:
                return None
            case {
                "type": "json_schema",
                "json_schema": {"schema": {"properties": {"ranking": {"items": {"enum": [*labels]}}}}},
            } if labels and all(label and isinstance(label, str) for label in labels) and len({*labels}) == len(labels):
                return labels
        raise ProtocolError(
            400,
            f"response_format: only a json_schema with an array `{RANKING}` of distinct labels, given as an enum",
            param="response_format",
        )


class _Labels(BaseModel):
    labels: list[str]


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A model's answer to a request."""

    request: ChatRequest
    model: str
    text: str
    log_probs: Mapping[str, float]
    """Of the candidates' labels; empty where the model tells none."""
    input_tokens: int
    output_tokens: int
    cut: bool

    @classmethod
    def of(cls, request: ChatRequest, message: AIMessage, prompt: Sequence[BaseMessage], model: str) -> ChatAnswer:
        """Hold a model's message to what the request asks for."""
        usage = message.usage_metadata
        log_probs = message.response_metadata.get("label_log_probs") or {}
        text, cut = str(message.text), False
        if labels := request.schema_labels():
            order = ranking_by(log_probs, labels) if log_probs else parsed_labels(text, labels)
            text = json.dumps({RANKING: order})
        else:
            for stop in request.stops:
                text = text.split(stop, 1)[0]
            if request.limit is not None:
                text, cut = _first_words(text, request.limit)
        return cls(
            request=request,
            model=model,
            text=text,
            log_probs=log_probs,
            input_tokens=usage["input_tokens"] if usage else count_tokens_approximately(prompt),
            output_tokens=usage["output_tokens"] if usage else count_tokens_approximately([message]),
            cut=cut,
        )

    def completion(self) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(), "finish_reason": self._finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage}

    def events(self) -> Iterator[str]:
        """Yield the server-sent events of a streamed answer, a line of the text at a time."""
        head = self._head("chat.completion.chunk")

        def event(delta: dict[str, str], logprobs: dict[str, Any] | None = None, finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            return _event({**head, "choices": [choice]})

        yield event({"role": "assistant", "content": ""})
        for number, line in enumerate(self.text.splitlines(keepends=True)):
            yield event({"content": line}, logprobs=None if number else self._logprobs())
        yield event({}, finish=self._finish_reason)
        if self.request.stream_options and self.request.stream_options.include_usage:
            yield _event({**head, "choices": [], "usage": self._usage})
        yield "data: [DONE]\n\n"

    @property
    def _finish_reason(self) -> str:
        return "length" if self.cut else "stop"

    @property
    def _usage(self) -> dict[str, int]:
        n_in, n_out = self.input_tokens, self.output_tokens
        return {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
        }

    def _logprobs(self) -> dict[str, Any] | None:
        """Return the first token's log-probabilities, which are the labels'."""
        if not (self.request.logprobs and self.log_probs):
            return None
        top = [
            {"token": label, "logprob": self.log_probs[label], "bytes": [*label.encode()]}
            for label in ranking_by(self.log_probs, list(self.log_probs))
        ]
        first = {**top[0], "top_logprobs": top[: self.request.top_logprobs or 0]}
        return {"content": [first], "refusal": None}


def parsed_labels(text: str, labels: Sequence[str]) -> list[str]:
    """Read the order of the labels out of a written answer; those it does not name follow in their order."""
    numbers = [str(n) for n in range(1, len(labels) + 1)]
    if {*labels} == {*numbers}:  # the parser knows candidates by number; their titles are not known here
        shown = [Item(item_id=number, title=f"candidate {number}") for number in numbers]
    else:
        shown = [Item(item_id=label, title=label) for label in labels]
    return [shown[index].item_id for index in parse_ranking(text, shown).order]


def _first_words(text: str, limit: int) -> tuple[str, bool]:
    """Cut a text to as many words as tokens are allowed: a word is at least one, so that no model's limit is cut."""
    words = text.split(maxsplit=limit)
    if len(words) <= limit:
        return text, False
    return text[: len(text) - len(words[-1])].rstrip(), True


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
