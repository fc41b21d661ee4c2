"""The embedded model as a LangChain chat model."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from promptailor.app.backends.embedded.engine import MAX_NEW_TOKENS, Engine
from promptailor.app.backends.embedded.tokenizer import MAX_LABEL
from promptailor.app.backends.gather import Gatherer
from promptailor.app.backends.ranking_chat import RankingChat, Readout
from promptailor.prompts.errors import InputError
from promptailor.prompts.llm import Message

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {"system": "system", "human": "user", "ai": "assistant"}


@dataclass(frozen=True, slots=True)
class _Call:
    prompt: list[int]
    labels: tuple[str, ...]
    """Candidates to rank by first token; empty for free text."""
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    n_tokens: int
    label_log_probs: dict[str, float]


class EmbeddedChat(RankingChat):
    """A chat model that ranks by its first token, or writes its answer.

    `invoke(messages, labels=("1", "2", ...))` ranks those labels: by `readout="first_token"` the answer is the labels,
    best first, one per line, and `response_metadata["label_log_probs"]` holds their log-probabilities; by
    `readout="text"` the model writes the answer the prompt asks for. Without labels it always writes.
    """

    model_name: str
    readout: Readout = "first_token"
    max_batch_size: int = 64
    threads: int = 1

    readouts: ClassVar[tuple[Readout, ...]] = ("text", "first_token")

    _engine: Engine = PrivateAttr()
    _gatherer: Gatherer[_Call, _Answer] = PrivateAttr()

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        *,
        readout: Readout = "first_token",
        max_batch_size: int = 64,
        threads: int = 1,
        name: str | None = None,
    ) -> EmbeddedChat:
        """Load a finished folder.

        Args:
            path: what `promptailor lm path` prints.
            readout: how rankings are read.
            max_batch_size: concurrent calls answered together at most.
            threads: of torch, for this model's worker only.
            name: the model's name in answers; by default the folder's.
        """
        weights = hashlib.sha256(Path(path, "model.safetensors").read_bytes()).hexdigest()
        chat = cls(
            model_name=name or Path(path).name,
            readout=readout,
            max_batch_size=max_batch_size,
            threads=threads,
            fingerprint=weights[:16],
        )
        chat._engine = Engine.from_folder(Path(path))
        chat._gatherer = Gatherer(chat._answer, max_batch_size, prepare=lambda: torch.set_num_threads(threads))
        return chat

    @property
    def max_candidates(self) -> int:
        """Candidates that the model has numbers for."""
        return MAX_LABEL

    @property
    def engine(self) -> Engine:
        """The model behind the chat, for callers that have whole batches."""
        return self._engine

    @property
    def _llm_type(self) -> str:
        return "promptailor-embedded"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "readout": self.readout}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, future = self._submit(messages, **kwargs)
        return self._result(call, future.result(), stop)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, future = self._submit(messages, **kwargs)
        return self._result(call, await asyncio.wrap_future(future), stop)

    def _submit(
        self,
        messages: Sequence[BaseMessage],
        labels: Sequence[str] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        **_: Any,
    ) -> tuple[_Call, Future[_Answer]]:
        ranked = tuple(labels) if self.readout == "first_token" else ()
        self._engine.check_labels(ranked)  # here, so that a wrong call cannot fail the batch it would have been in
        prompt = self._engine.encoder.messages([_message(m) for m in messages])
        call = _Call(prompt, ranked, max_new_tokens)
        return call, self._gatherer.submit(call)

    def _answer(self, calls: list[_Call]) -> list[_Answer]:
        """Answer a batch; runs in the worker thread."""
        answers: dict[int, _Answer] = {}
        if ranked := [i for i, call in enumerate(calls) if call.labels]:
            scores = self._engine.rank_tokens([calls[i].prompt for i in ranked], [calls[i].labels for i in ranked])
            answers |= {i: _Answer("\n".join(s.ranking), 1, s.log_probs) for i, s in zip(ranked, scores, strict=True)}
        for limit in sorted({call.max_new_tokens for call in calls if not call.labels}):
            asked = [i for i, call in enumerate(calls) if not call.labels and call.max_new_tokens == limit]
            written = self._engine.generate_tokens([calls[i].prompt for i in asked], limit)
            decode = self._engine.encoder.decode
            answers |= {i: _Answer(decode(ids), len(ids), {}) for i, ids in zip(asked, written, strict=True)}
        return [answers[i] for i in range(len(calls))]

    def _result(self, call: _Call, answer: _Answer, stop: list[str] | None) -> ChatResult:
        text = answer.text
        for end in stop or ():
            text = text.split(end, 1)[0]
        n_in, n_out = len(call.prompt), answer.n_tokens
        message = AIMessage(
            content=text,
            response_metadata={"model_name": self.model_name, "label_log_probs": answer.label_log_probs},
            usage_metadata=UsageMetadata(input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _message(message: BaseMessage) -> Message:
    role = _ROLES.get(message.type)
    if role is None:
        raise InputError(f"messages: the embedded model reads {', '.join(_ROLES)} messages, not {message.type!r}")
    return Message(role=role, content=message.text)
