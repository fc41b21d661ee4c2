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
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import PrivateAttr, SecretStr

from promptailor.app.backends.openai_client import AiohttpCompletions
from promptailor.app.backends.openai_readouts import (
    GRAMMARS,
    TOP_LOG_PROBS,
    Grammar,
    label_log_probs,
    probe_options,
    ranking_by,
    request_options,
    structured_ranking,
)
from promptailor.app.backends.ranking_chat import Probe, RankingChat, Readout, ReadoutFallbackError
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

logger = logging.getLogger(__name__)

_NEXT: dict[Readout, Readout] = {"first_token": "structured", "structured": "text"}
"""What a readout falls back to."""
_WORDS: dict[Readout, tuple[str, ...]] = {
    "first_token": ("logprob",),
    "structured": ("response_format", "schema", "structured output", "grammar", "structured_outputs"),
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

    def give_up(self, readout: Readout, reason: str, model: str) -> ReadoutFallbackError:
        """Remember that the server cannot do a readout, say so once, and return what to raise."""
        with self._lock:
            known = readout in self.failed  # from a request that was sent at the same time
            self.failed.setdefault(readout, reason)
        if not known:
            logger.warning("openai:%s: %s; rankings are read by %s instead", model, reason, _NEXT[readout])
        return ReadoutFallbackError(f"{reason}; readout {_NEXT[readout]} from now on")


class OpenAIChat(ChatOpenAI, RankingChat):
    """LangChain's OpenAI client, which also ranks: `invoke(messages, labels=("1", "2", ...))`.

    Where a server cannot do what the readout needs, the first call raises, and later ones are answered by the next
    readout (`first_token`, `structured`, `text`), with the reason in `response_metadata["fallback"]`. After
    `first_token`, `response_metadata` holds `label_log_probs` and `labels_seen`, how many labels were among the top
    tokens; the other labels follow in their order.

    Raises:
        ReadoutFallbackError: the server cannot do what the readout needs; ask again.
        openai.OpenAIError: the server refused or failed.
        ValueError: what the server answered is no chat completion.
    """

    disable_streaming: bool | Literal["tool_calling"] = True

    grammar: Grammar = "json_schema"
    """What holds a structured answer."""

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
        readout = self._server.best(self.readout) if labels else "text"
        options = {**kwargs, **request_options(readout, labels, self.grammar)}
        try:
            result = super()._generate(messages, stop, run_manager, **options)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            self._check_refusal(error, readout)
            raise
        return self._read(result, readout, labels)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        labels: Sequence[str] = (),
        **kwargs: Any,
    ) -> ChatResult:
        readout = self._server.best(self.readout) if labels else "text"
        options = {**kwargs, **request_options(readout, labels, self.grammar)}
        payload = self._get_request_payload(messages, stop=stop, **options)
        try:
            # As in ChatOpenAI, but for a thread of its own to read each answer in, which costs more than reading it.
            result = self._create_chat_result(await self.async_client.create(**payload))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            self._check_refusal(error, readout)
            raise
        return self._read(result, readout, labels)

    def probe(self, messages: Sequence[BaseMessage], labels: Sequence[str]) -> Probe:
        """Ask once for a schema and log-probabilities together, and see what comes."""
        try:
            result = super()._generate(list(messages), **probe_options(labels))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not any(word in error.message.lower() for words in _WORDS.values() for word in words):
                raise
            reason = "the server refuses schema and log-probabilities in one request; ask it for each"
            return Probe(answer=AIMessage(""), lacks={"structured": reason, "first_token": reason})
        generation = result.generations[0]
        lacks: dict[Readout, str] = {}
        if structured_ranking(generation.text, "json_schema") is None:
            lacks["structured"] = "the server ignores the schema"
        if label_log_probs((generation.generation_info or {}).get("logprobs"), labels) is None:
            lacks["first_token"] = "the server sends no log-probabilities"
        return Probe(answer=generation.message, lacks=lacks)

    def _check_refusal(self, error: openai.APIStatusError, readout: Readout) -> None:
        """Give the readout up where it, and not the prompt, is what the server refuses."""
        named = any(word in error.message.lower() for word in _WORDS.get(readout, ()))
        if named and readout not in self._server.proven:
            raise self._server.give_up(readout, f"the server refuses what {readout} needs", self.model_name) from error

    def _read(self, result: ChatResult, readout: Readout, labels: Sequence[str]) -> ChatResult:
        """Write the ranking into the answer, one label per line, and what is known of it into its metadata."""
        generation = result.generations[0] if result.generations else None
        if generation is None or not isinstance(generation.message, AIMessage):
            raise ValueError("the server's answer holds no assistant message")
        message, info = generation.message, dict(generation.generation_info or {})
        log_probs = label_log_probs(info.pop("logprobs", None), labels)  # 20 tokens each, which nobody else reads
        told: dict[str, Any] = {"readout": readout}
        ranking: list[str] | None = None
        if readout == "first_token":
            if log_probs is None:
                if readout in self._server.proven:
                    raise ValueError("the server has sent no log-probabilities this time")
                raise self._server.give_up(readout, "the server sends no log-probabilities", self.model_name)
            told |= {"label_log_probs": log_probs, "labels_seen": len(log_probs)}
            ranking = ranking_by(log_probs, labels) if log_probs else None  # else the token, for the parser to report
        elif readout == "structured":
            ranking = structured_ranking(message.text, self.grammar)
            told["readout"] = "structured" if ranking else "text"
        reasons = [*self._server.failed.values()] if labels else []
        if told["readout"] != readout:
            reasons.append("the answer does not follow the schema")
        if reasons:
            told["fallback"] = "; ".join(reasons)
        self._server.proven.add(told["readout"])
        changes: dict[str, Any] = {"response_metadata": message.response_metadata | told}
        if ranking:
            changes["content"] = "\n".join(ranking)
        answer = ChatGeneration(message=message.model_copy(update=changes), generation_info=info)
        return ChatResult(generations=[answer], llm_output=result.llm_output)


def load(spec: ModelSpec, settings: Settings) -> OpenAIChat:
    """Make a client.

    Raises:
        SpecError: neither a key nor a server is given, or an option makes no sense.
    """
    spec.refuse_unknown("base_url", "temperature", "max_tokens", "readout", "grammar", "timeout", "seed", "api_key_env")
    base_url, api_key = _base_url(spec) or settings.openai_base_url, _api_key(spec) or settings.openai_api_key
    if api_key is None and base_url is None:
        raise SpecError(f"--model {spec}: set OPENAI_API_KEY, or name a compatible server with ?base_url=URL")
    timeout_s = spec.number("timeout", 60.0)
    chat = OpenAIChat(
        model=spec.model,
        base_url=base_url,
        api_key=api_key or SecretStr("none"),  # a server of one's own asks for none, but the client insists on one
        temperature=spec.number("temperature", 0.0),
        max_completion_tokens=spec.whole("max_tokens", 1) if spec.text("max_tokens") else None,
        readout=spec.choice("readout", OpenAIChat.readouts, "text"),
        grammar=spec.choice("grammar", GRAMMARS, "json_schema"),
        timeout=timeout_s,
        seed=int(spec.number("seed", 0)) if spec.text("seed") else None,
        max_retries=0,
    )
    chat.async_client = AiohttpCompletions(chat.root_async_client, timeout_s)
    return chat


def _base_url(spec: ModelSpec) -> str | None:
    url = spec.text("base_url")
    parts = urlsplit(url or "")
    if url is not None and (parts.scheme not in ("http", "https") or not parts.hostname):
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
