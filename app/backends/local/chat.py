"""An in-process model as a LangChain chat model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from promptailor.app.backends.gather import Gatherer
from promptailor.app.backends.local.engine import MAX_NEW_TOKENS, Engine
from promptailor.app.backends.messages import plain_messages
from promptailor.app.backends.ranking_chat import READOUTS, RankingChat, Readout


@dataclass(frozen=True, slots=True)
class _Call:
    prompt: list[int]
    readout: Readout
    labels: tuple[str, ...]
    """Candidates to rank; empty where the model writes."""
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    n_tokens: int
    metadata: dict[str, Any] = field(default_factory=dict)


class LocalChat(RankingChat):
    """A chat model in this process; concurrent calls, of threads or coroutines, are answered in batches.

    `invoke(messages, labels=("1", "2", ...))` ranks those labels. By `readout="first_token"` the answer is the labels,
    best first, one per line, and `response_metadata["label_log_probs"]` holds their log-probabilities; by `structured`
    it is the permutation of the labels that greedy decoding prefers, one per line; by `text` the model writes the
    answer the prompt asks for. Without labels it always writes. `engine` is the model itself.
    """

    model_name: str
    readout: Readout = "first_token"
    max_batch_size: int = 64
    max_new_tokens: int = MAX_NEW_TOKENS
    threads: int | None = None
    """Of torch, for this model's worker only; None for torch's own choice."""

    readouts: ClassVar[tuple[Readout, ...]] = READOUTS
    in_process: ClassVar[bool] = True

    _engine: Engine = PrivateAttr()
    _gatherer: Gatherer[_Call, _Answer] = PrivateAttr()

    @classmethod
    def of(cls, engine: Engine, **fields: Any) -> LocalChat:
        """Put a chat model before an engine; `fields` are the chat's own."""
        chat = cls(**fields)
        chat._engine = engine
        chat._gatherer = Gatherer(chat._answer, chat.max_batch_size, prepare=chat.prepare)
        return chat

    @property
    def max_candidates(self) -> int:
        """Candidates that the tokenizer has numbers for."""
        return len(self._engine.labels.first)

    @property
    def engine(self) -> Engine:
        """The model behind the chat: for whole batches, and for gradients."""
        return self._engine

    def count_tokens(self, messages: Sequence[BaseMessage]) -> int:
        """Return the input tokens of a prompt, exactly."""
        return len(self._engine.encoder.encode(plain_messages(messages)))

    @property
    def _llm_type(self) -> str:
        return "promptailor-local"

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
        max_new_tokens: int | None = None,
        **_: Any,
    ) -> tuple[_Call, Future[_Answer]]:
        readout: Readout = self.readout if labels else "text"
        ranked = () if readout == "text" else tuple(labels)
        # Encoded, and so checked, here: a wrong call cannot fail the batch it would have been in.
        prompt = self._engine.encode(plain_messages(messages), labels=ranked, readout=readout)
        longest, context = max_new_tokens or self.max_new_tokens, self._engine.context
        call = _Call(prompt, readout, ranked, min(longest, context - len(prompt)) if context else longest)
        return call, self._gatherer.submit(call)

    def prepare(self) -> None:
        """Set the calling thread up for torch; the worker's own call of it is made by the gatherer."""
        if self.threads:
            torch.set_num_threads(self.threads)

    def _answer(self, calls: list[_Call]) -> list[_Answer]:
        """Answer a batch; runs in the worker thread."""
        alike: dict[tuple[Readout, int], list[int]] = {}
        for i, call in enumerate(calls):
            alike.setdefault((call.readout, call.max_new_tokens if call.readout == "text" else 0), []).append(i)
        answers: dict[int, _Answer] = {}
        for (readout, limit), places in alike.items():
            answers |= zip(places, self._answer_alike(readout, limit, [calls[i] for i in places]), strict=True)
        return [answers[i] for i in range(len(calls))]

    def _answer_alike(self, readout: Readout, max_new_tokens: int, calls: Sequence[_Call]) -> list[_Answer]:
        engine, prompts, labels = self._engine, [call.prompt for call in calls], [call.labels for call in calls]
        if readout == "first_token":
            scores = engine.rank_tokens(prompts, labels)
            return [_Answer("\n".join(s.ranking), 1, {"label_log_probs": s.log_probs}) for s in scores]
        if readout == "structured":
            return [_Answer("\n".join(o.ranking), o.n_tokens) for o in engine.order_tokens(prompts, labels)]
        return [_Answer(engine.decode(ids), len(ids)) for ids in engine.generate_tokens(prompts, max_new_tokens)]

    def _result(self, call: _Call, answer: _Answer, stop: list[str] | None) -> ChatResult:
        text = answer.text
        for end in stop or ():
            text = text.split(end, 1)[0]
        n_in, n_out = len(call.prompt), answer.n_tokens
        message = AIMessage(
            content=text,
            response_metadata={"model_name": self.model_name, "readout": call.readout, **answer.metadata},
            usage_metadata=UsageMetadata(input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])
