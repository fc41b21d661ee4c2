"""OpenAI and every server that speaks its protocol."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import PrivateAttr, SecretStr

from promptailor.app.backends.openai_readouts import (
    TOP_LOG_PROBS,
    label_log_probs,
    ranking_by,
    request_options,
    structured_ranking,
)
from promptailor.app.backends.ranking_chat import RankingChat, Readout
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

logger = logging.getLogger(__name__)

_NEXT: dict[Readout, Readout] = {"first_token": "structured", "structured": "text"}
"""What a readout falls back to."""
_WORDS: dict[Readout, tuple[str, ...]] = {
    "first_token": ("logprob",),
    "structured": ("response_format", "json_schema", "schema", "structured output"),
}
"""Words by which a refusal of the readout is told from a refusal of the prompt."""
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


class _Server:
    """What a server has shown that it can do, and that it cannot; shared by threads."""

    def __init__(self) -> None:
        self.proven: set[Readout] = set()
        """One answer without what it has done before is a fault, not a reason to give a readout up."""
        self.failed: dict[Readout, str] = {}
        """Readouts given up, with the reason."""
        self._lock = threading.Lock()

    def best(self, readout: Readout) -> Readout:
        """Return the readout asked for, or the next one that the server has not failed at."""
        while readout in self.failed:
            readout = _NEXT[readout]
        return readout

    def give_up(self, readout: Readout, reason: str, model: str) -> None:
        """Remember that the server cannot do a readout, and say so once."""
        with self._lock:
            if readout in self.failed:  # by another thread
                return
            self.failed[readout] = reason
        logger.warning("openai:%s: %s; rankings are read by %s instead", model, reason, _NEXT[readout])


class OpenAIChat(ChatOpenAI, RankingChat):
    """LangChain's OpenAI client, which also ranks: `invoke(messages, labels=("1", "2", ...))`.

    Where a server cannot do what the readout needs, the answer comes by the next one (`first_token`, `structured`,
    `text`) within the same call, and the server is not asked for the former again. Then `response_metadata` holds the
    `fallback` reason, and `requests`, how many were sent for this answer where that is more than one. After
    `first_token` it holds `label_log_probs` and `labels_seen`, how many labels were among the top tokens; the other
    labels follow in their order.

    Raises:
        openai.OpenAIError: the server refused or failed.
        ValueError: what the server answered is no chat completion.
    """

    disable_streaming: bool | Literal["tool_calling"] = True

    readouts: ClassVar[tuple[Readout, ...]] = ("text", "structured", "first_token")

    _server: _Server = PrivateAttr(default_factory=_Server)

    @property
    def max_candidates(self) -> int | None:
        """As many as servers tell log-probabilities of, where these rank."""
        return TOP_LOG_PROBS if self.readout == "first_token" else None

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        labels: Sequence[str] = (),
        **kwargs: Any,
    ) -> ChatResult:
        answer = _Answer(self, self._server, labels)
        while True:
            try:
                result = super()._generate(messages, stop, run_manager, **{**kwargs, **answer.request()})
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                answer.refused(error)
            else:
                if finished := answer.read(result):
                    return finished

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        labels: Sequence[str] = (),
        **kwargs: Any,
    ) -> ChatResult:
        answer = _Answer(self, self._server, labels)
        while True:
            try:
                result = await super()._agenerate(messages, stop, run_manager, **{**kwargs, **answer.request()})
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                answer.refused(error)
            else:
                if finished := answer.read(result):
                    return finished


class _Answer:
    """One answer in the making: the readout it is tried by, and what was spent on it so far."""

    def __init__(self, chat: OpenAIChat, server: _Server, labels: Sequence[str]) -> None:
        self._chat, self._server, self._labels = chat, server, tuple(labels)
        self._readout: Readout = "text"
        self._requests = 0
        self._usage: UsageMetadata | None = None

    def request(self) -> dict[str, Any]:
        """Count a request and return its options."""
        self._readout = self._server.best(self._chat.readout) if self._labels else "text"
        self._requests += 1
        return request_options(self._readout, self._labels)

    def refused(self, error: openai.APIStatusError) -> None:
        """Give the readout up where it is what the server refuses, else raise the error."""
        words = _WORDS.get(self._readout, ())
        if self._readout in self._server.proven or not any(word in error.message.lower() for word in words):
            raise error
        self._give_up(f"the server refuses what {self._readout} needs")

    def read(self, result: ChatResult) -> ChatResult | None:
        """Return the finished answer, or None where the readout has just been given up.

        Raises:
            ValueError: the answer is no assistant's, or without what the server has sent before.
        """
        generation = result.generations[0] if result.generations else None
        if generation is None or not isinstance(generation.message, AIMessage):
            raise ValueError("the server's answer holds no assistant message")
        message, info = generation.message, dict(generation.generation_info or {})
        self._usage = add_usage(self._usage, message.usage_metadata) if self._usage else message.usage_metadata
        log_probs = label_log_probs(info.pop("logprobs", None), self._labels)
        text, told, shortfall = str(message.text), dict[str, Any](), list(self._server.failed.values())
        if self._readout == "first_token":
            if log_probs is None:
                if self._readout in self._server.proven:
                    raise ValueError("the server has sent no log-probabilities this time")
                self._give_up("the server sends no log-probabilities")
                return None
            told = {"label_log_probs": log_probs, "labels_seen": len(log_probs)}
            if log_probs:  # without any, the token stays as it is, for the parser to report
                text = "\n".join(ranking_by(log_probs, self._labels))
        elif self._readout == "structured":
            if ranking := structured_ranking(text):
                text = "\n".join(ranking)
            else:  # the server ignores the schema, or has cut the answer
                self._readout = "text"
                shortfall.append("the answer does not follow the schema")
        told["readout"] = self._readout
        if self._labels and shortfall:
            told["fallback"] = "; ".join(shortfall)
        if self._requests > 1:
            told["requests"] = self._requests
        self._server.proven.add(self._readout)
        changes = {
            "content": text,
            "usage_metadata": self._usage,
            "response_metadata": message.response_metadata | told,
        }
        finished = ChatGeneration(message=message.model_copy(update=changes), generation_info=info)
        return ChatResult(generations=[finished], llm_output=result.llm_output)

    def _give_up(self, reason: str) -> None:
        self._server.give_up(self._readout, reason, self._chat.model_name)


def load(spec: ModelSpec, settings: Settings) -> OpenAIChat:
    """Make a client.

    Raises:
        SpecError: neither a key nor a server is given, or an option makes no sense.
    """
    spec.refuse_unknown("base_url", "temperature", "max_tokens", "readout", "timeout", "seed", "api_key_env")
    base_url, api_key = _base_url(spec) or settings.openai_base_url, _api_key(spec) or settings.openai_api_key
    if api_key is None and base_url is None:
        raise SpecError(f"--model {spec}: set OPENAI_API_KEY, or name a compatible server with ?base_url=URL")
    return OpenAIChat(
        model=spec.model,
        base_url=base_url,
        api_key=api_key or SecretStr("none"),  # a server of one's own asks for none, but the client insists on one
        temperature=spec.number("temperature", 0.0),
        max_completion_tokens=spec.whole("max_tokens", 1) if spec.text("max_tokens") else None,
        readout=spec.choice("readout", OpenAIChat.readouts, "text"),
        timeout=spec.number("timeout", 60.0),
        seed=int(spec.number("seed", 0)) if spec.text("seed") else None,
        max_retries=0,
    )


def _base_url(spec: ModelSpec) -> str | None:
    """Return the server named in the spec; its string is written to every run, so that it must hold no password."""
    url = spec.text("base_url")
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.password is not None:
        raise SpecError("--model: base_url holds a password; name the variable that holds it with api_key_env=NAME")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"--model {spec}: base_url is an address such as http://127.0.0.1:8000/v1, not {url!r}")
    return url


def _api_key(spec: ModelSpec) -> SecretStr | None:
    """Return the key of this server alone, from the variable that the spec names."""
    name = spec.text("api_key_env")
    if name is None:
        return None
    if not _VARIABLE.fullmatch(name):  # a key, perhaps: it must not be repeated
        raise SpecError("--model: api_key_env is the name of an environment variable that holds the key")
    value = os.environ.get(name)
    if not value:
        raise SpecError(f"--model {spec}: the environment variable {name} is not set; api_key_env names it")
    return SecretStr(value)
