"""vLLM in process: many prompts at once, shared beginnings computed once, and rankings that cannot be invalid.

`first_token` is one step per prompt: every token but the labels' is masked, and the log-probabilities of what is left
order the candidates. `structured` writes under the grammar of a permutation (`permutation_grammar`).
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # by default it logs to where rankings are printed

from vllm import LLM, RequestOutput, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import StructuredOutputsParams

from promptailor.app.backends.gather import Gatherer
from promptailor.app.backends.local.encoder import ChatEncoder
from promptailor.app.backends.local.engine import MAX_NEW_TOKENS, LabelScores
from promptailor.app.backends.local.labels import LABELS
from promptailor.app.backends.local.loading import fingerprint
from promptailor.app.backends.messages import plain_messages
from promptailor.app.backends.permutation_grammar import permutation_grammar
from promptailor.app.backends.ranking_chat import READOUTS, RankingChat, Readout
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import InputError, SpecError

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes that vLLM makes room for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    prompt: list[int]
    sampling: SamplingParams
    readout: Readout
    label_tokens: Mapping[str, int]
    """The token of each label to rank by first token; empty for the other readouts."""
    fallback: str | None
    """Why the readout is not the one asked for."""


class VllmChat(RankingChat):
    """A chat model on vLLM; concurrent calls, of threads or coroutines, are answered in batches, by greedy decoding.

    `invoke(messages, labels=("1", "2", ...))` ranks those labels, best first, one per line, by `readout="first_token"`
    or `structured`; by `text`, and without labels, the model writes. Where a label is several tokens, `first_token`
    falls back to `structured`. Copies by `model_copy(update={"readout": ...})` share the engine.
    """

    model_name: str
    readout: Readout = "first_token"
    max_new_tokens: int = MAX_NEW_TOKENS

    readouts: ClassVar[tuple[Readout, ...]] = READOUTS
    in_process: ClassVar[bool] = True

    _encoder: ChatEncoder = PrivateAttr()
    _llm: LLM = PrivateAttr()
    _gatherer: Gatherer[_Call, RequestOutput] = PrivateAttr()

    @classmethod
    def of(cls, llm: LLM, *, max_batch_size: int, adapter: LoRARequest | None = None, **fields: Any) -> VllmChat:
        """Put a chat model before an engine.

        Args:
            llm: the engine; only the chat's own worker may use it from now on.
            max_batch_size: concurrent calls answered together at most.
            adapter: answers every call.
            fields: the chat's own.

        Raises:
            InputError: the tokenizer has no chat template, or cannot write numbers.
        """
        chat = cls(**fields)
        chat._encoder, chat._llm = ChatEncoder(llm.get_tokenizer()), llm

        def answer(calls: list[_Call]) -> list[RequestOutput]:
            prompts = [{"prompt_token_ids": call.prompt} for call in calls]
            sampling = [call.sampling for call in calls]
            return list(llm.generate(prompts, sampling, lora_request=adapter, use_tqdm=False))

        chat._gatherer = Gatherer(answer, max_batch_size)
        return chat

    @property
    def max_candidates(self) -> int:
        """Candidates that the tokenizer has numbers for."""
        return len(self._encoder.labels.first)

    def count_tokens(self, messages: Sequence[BaseMessage]) -> int:
        """Return the input tokens of a prompt, exactly."""
        return len(self._encoder.encode(plain_messages(messages)))

    def close(self) -> None:
        """Stop the engine and give its memory back; otherwise it goes with the process."""
        self._llm.llm_engine.engine_core.shutdown()

    @property
    def _llm_type(self) -> str:
        return "promptailor-vllm"

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
        call, future = self._submit(messages, stop, **kwargs)
        return self._result(call, future.result())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, future = self._submit(messages, stop, **kwargs)
        return self._result(call, await asyncio.wrap_future(future))

    def _submit(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        labels: Sequence[str] = (),
        max_new_tokens: int | None = None,
        **_: Any,
    ) -> tuple[_Call, Future[RequestOutput]]:
        prompt = self._encoder.encode(plain_messages(messages))
        if labels and self.readout != "text":
            call = self._ranking_call(prompt, labels)
        else:
            call = self._written_call(prompt, max_new_tokens or self.max_new_tokens, stop)
        return call, self._gatherer.submit(call)

    def _written_call(self, prompt: list[int], max_new_tokens: int, stop: list[str] | None) -> _Call:
        room = self._room(prompt, 1)
        sampling = SamplingParams(temperature=0.0, max_tokens=min(max_new_tokens, room), stop=stop)
        return _Call(prompt=prompt, sampling=sampling, readout="text", label_tokens={}, fallback=None)

    def _ranking_call(self, prompt: list[int], labels: Sequence[str]) -> _Call:
        written = self._encoder.labels
        written.check(labels)
        prompt = written.open(prompt)
        fallback = None
        if self.readout == "first_token":
            several = next((label for label in labels if len(written.first[label]) > 1), None)
            if several is None:
                self._room(prompt, 1)
                tokens = {label: written.first[label][0] for label in labels}
                sampling = SamplingParams(
                    temperature=0.0,
                    max_tokens=1,
                    allowed_token_ids=list(tokens.values()),
                    logprobs=len(tokens),
                    detokenize=False,
                )
                return _Call(
                    prompt=prompt, sampling=sampling, readout="first_token", label_tokens=tokens, fallback=None
                )
            fallback = f"{self.model_name} writes label {several} as several tokens"
            _warn(f"{fallback}; rankings with it are read by readout=structured, not by first_token")
        longest = len("\n".join(labels).encode()) + 1  # a token has a byte at least; then the end token
        self._room(prompt, longest)
        grammar = StructuredOutputsParams(grammar=permutation_grammar(labels))
        sampling = SamplingParams(temperature=0.0, max_tokens=longest, structured_outputs=grammar)
        return _Call(prompt=prompt, sampling=sampling, readout="structured", label_tokens={}, fallback=fallback)

    def _room(self, prompt: Sequence[int], needed: int) -> int:
        """Return how many tokens may follow a prompt; checked here, so that a long one cannot fail a whole batch."""
        context = self._llm.model_config.max_model_len
        room: int = context - len(prompt)
        if room < needed:
            raise InputError(
                f"prompt of {len(prompt)} tokens: with {needed} for the answer it is longer than the model's context "
                f"of {context}; show less history or fewer candidates, or take another model"
            )
        return room

    def _result(self, call: _Call, output: RequestOutput) -> ChatResult:
        answer = output.outputs[0]
        text: str = answer.text
        metadata: dict[str, Any] = {"model_name": self.model_name, "readout": call.readout}
        if call.fallback:
            metadata["fallback"] = call.fallback
        if call.label_tokens:
            read = answer.logprobs[0]
            scores = LabelScores.of({label: read[token].logprob for label, token in call.label_tokens.items()})
            text, metadata["label_log_probs"] = "\n".join(scores.ranking), scores.log_probs
        n_in, n_out = len(call.prompt), len(answer.token_ids)
        usage = UsageMetadata(
            input_tokens=n_in,
            output_tokens=n_out,
            total_tokens=n_in + n_out,
            input_token_details=InputTokenDetails(cache_read=output.num_cached_tokens or 0),
        )
        message = AIMessage(content=text, response_metadata=metadata, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


@functools.cache
def _warn(text: str) -> None:
    """Log a warning once."""
    _log.warning(text)


def load(spec: ModelSpec, settings: Settings) -> VllmChat:
    """Load a model into vLLM.

    Raises:
        SpecError: an option makes no sense, or vLLM cannot load the model or its adapter; the message says why.
    """
    engine_options = ("dtype", "max_model_len", "gpu_memory_utilization", "tensor_parallel_size", "seed")
    spec.refuse_unknown("readout", "max_new_tokens", "adapter", "max_batch_size", *engine_options)
    chat_fields: dict[str, Any] = {
        "readout": spec.choice("readout", VllmChat.readouts, "first_token"),
        "max_new_tokens": spec.whole("max_new_tokens", MAX_NEW_TOKENS),
        "max_batch_size": spec.whole("max_batch_size", 64),
    }
    adapter = Path(given).expanduser() if (given := spec.text("adapter")) else None
    name = str(Path(spec.model).expanduser())
    engine: dict[str, Any] = {
        "dtype": spec.choice("dtype", _DTYPES, "auto"),
        "max_model_len": spec.whole("max_model_len", 1) if spec.text("max_model_len") else None,
        "gpu_memory_utilization": spec.number("gpu_memory_utilization", 0.9),
        "tensor_parallel_size": spec.whole("tensor_parallel_size", 1),
        "seed": int(spec.number("seed", 0)),
    }
    if adapter:
        engine |= {"enable_lora": True, "max_lora_rank": _lora_rank(adapter, spec)}
    try:
        llm = LLM(
            model=name,
            enable_prefix_caching=True,
            max_num_seqs=chat_fields["max_batch_size"],
            max_logprobs=len(LABELS),
            logprobs_mode="processed_logprobs",  # of the labels only: the mask comes first
            structured_outputs_config={"backend": "guidance"},
            enforce_eager=current_platform.is_cpu(),  # compiling takes longer there than it saves in thousands of calls
            **engine,
        )
        return VllmChat.of(
            llm,
            adapter=LoRARequest("adapter", 1, str(adapter)) if adapter else None,
            model_name=str(spec),
            fingerprint=_fingerprint(llm, Path(name), adapter),
            **chat_fields,
        )
    except (OSError, RuntimeError, ValueError, InputError) as error:
        raise SpecError(f"--model {spec}: vLLM cannot load it: {' '.join(str(error).split())}") from error


def _lora_rank(adapter: Path, spec: ModelSpec) -> int:
    """Return the size of an adapter's matrices that vLLM has to make room for."""
    file = adapter / "adapter_config.json"
    try:
        config = json.loads(file.read_bytes())
        rank = max((config["r"], *(config.get("rank_pattern") or {}).values()))
        return next(size for size in _LORA_RANKS if size >= rank)
    except OSError:
        raise SpecError(f"--model {spec}: there is no {file}; give the folder of a LoRA adapter") from None
    except (KeyError, StopIteration, TypeError, ValueError):
        raise SpecError(f"--model {spec}: {file} names no rank `r` up to {_LORA_RANKS[-1]}") from None


def _fingerprint(llm: LLM, model: Path, adapter: Path | None) -> str:
    """Digest the local files that answers depend on; those of a hub id stand for themselves by their commit."""
    commit = getattr(llm.model_config.hf_config, "_commit_hash", None) or ""
    folders = [folder for folder in (model, adapter) if folder and folder.is_dir()]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    return "-".join(part for part in (commit[:16], fingerprint(*files) if files else "") if part)
