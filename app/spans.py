"""Runs as OpenTelemetry spans, by the semantic conventions for generative AI; what is ours is under `promptailor.`.

Prompts and answers stay out, as the conventions ask, unless OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says
otherwise; sentence ids, probabilities, digests and changes are always there. What else can be set, OpenTelemetry reads
from its own variables.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode

from promptailor.app.redact import redact
from promptailor.app.scores import KEY
from promptailor.graph.tracing import PREFIX, STEP_TAG

SERVICE = "promptailor"
_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_EVALUATION = "gen_ai.evaluation.result"
_REMEMBERED = 10_000
"""Requests that feedback may still come for."""
_LLM = frozenset({"llm", "chat_model"})

Attribute = str | bool | int | float | Sequence[str]


def span_provider() -> TracerProvider:
    """Return the application's own provider, or one that sends to the collector the environment names."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        return provider
    named = bool(os.environ.get("OTEL_SERVICE_NAME"))
    provider = TracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # flushed when the process ends
    return provider


class SpanTracer(BaseTracer):
    """Listens to all runs.

    Args:
        provider: makes the spans.
        name_user: returns the pseudonym of a user's id.
    """

    run_inline = True

    def __init__(self, provider: TracerProvider, *, name_user: Callable[[str], str]) -> None:
        super().__init__(_schema_format="original+chat")
        self._tracer = provider.get_tracer(SERVICE)
        self._name_user = name_user
        self._spans: dict[UUID, Span] = {}
        self._ended: OrderedDict[UUID, SpanContext] = OrderedDict()
        self._lock = threading.Lock()
        self._content = os.environ.get(_CONTENT, "").casefold() in {"true", "span_only", "span_and_event"}

    def evaluation(self, run_id: UUID, key: str, score: float, comment: str | None) -> None:
        """Add a span with a score to the trace of a request that has ended."""
        with self._lock:
            ended = self._ended.get(run_id)
        if ended is None:
            return
        parent = trace.set_span_in_context(trace.NonRecordingSpan(ended))
        span = self._tracer.start_span(f"evaluation {key}", parent)
        span.add_event(_EVALUATION, _score(key, score, comment))
        span.end()

    @staticmethod
    def _add_child_run(parent_run: Run, child_run: Run) -> None:
        """Keep no tree."""

    def _on_run_create(self, run: Run) -> None:
        with self._lock:
            parent = self._spans.get(run.parent_run_id) if run.parent_run_id else None
        context = None if parent is None else trace.set_span_in_context(parent)
        kind = SpanKind.CLIENT if run.run_type in _LLM else SpanKind.INTERNAL
        span = self._tracer.start_span(
            _name(run), context, kind, attributes=self._attributes(run), start_time=_nanoseconds(run.start_time)
        )
        with self._lock:
            self._spans[run.id] = span

    def _on_run_update(self, run: Run) -> None:
        with self._lock:
            span = self._spans.pop(run.id, None)
        if span is None:
            return
        outputs = run.outputs or {}
        if run.error:
            reason = redact(run.error.splitlines()[0])
            span.set_attribute("error.type", reason.partition("(")[0])
            span.set_status(StatusCode.ERROR, reason)
        elif run.run_type in _LLM:
            span.set_attributes(self._answer(outputs))
        elif STEP_TAG in (run.tags or ()):
            if self._content:
                span.set_attribute(f"{PREFIX}difference", [redact(line) for line in outputs["difference"]])
            if (reward := outputs.get("reward")) is not None:
                span.add_event(_EVALUATION, _score(KEY, reward), timestamp=_nanoseconds(run.start_time))
        span.end(_nanoseconds(run.end_time or run.start_time))

    def _persist_run(self, run: Run) -> None:
        """Remember where a request's feedback belongs; its span has not ended yet."""
        with self._lock:
            if span := self._spans.get(run.id):
                self._ended[run.id] = span.get_span_context()
                if len(self._ended) > _REMEMBERED:
                    self._ended.popitem(last=False)

    def _attributes(self, run: Run) -> dict[str, Attribute]:
        metadata = run.metadata or {}
        told: dict[str, Attribute | None] = {k: v for k, v in metadata.items() if k.startswith(PREFIX)}
        if run.run_type in _LLM:
            told |= {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": metadata.get("ls_provider"),
                "gen_ai.request.model": metadata.get("ls_model_name"),
                "gen_ai.request.temperature": metadata.get("ls_temperature"),
                "gen_ai.request.max_tokens": metadata.get("ls_max_tokens"),
            }
            if self._content:
                told["gen_ai.input.messages"] = json.dumps([_message(m) for m in _messages(run.inputs)])
        elif run.parent_run_id is None:
            user = _user_id(run.inputs)
            told |= {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": run.name,
                "gen_ai.conversation.id": metadata.get("thread_id"),
                "enduser.pseudo.id": metadata.get("user_id") if user is None else self._name_user(user),
            }
        elif STEP_TAG not in (run.tags or ()):
            told[f"{PREFIX}node"] = metadata.get("langgraph_node")
        return {name: value for name, value in told.items() if value is not None}

    def _answer(self, outputs: Mapping[str, Any]) -> dict[str, Attribute]:
        answer: Mapping[str, Any] = next(
            (g["message"] for batch in outputs.get("generations", ()) for g in batch if "message" in g), {}
        )
        message = answer.get("kwargs", answer)
        usage = message.get("usage_metadata") or {}
        told: dict[str, Attribute | None] = {
            "gen_ai.response.model": (message.get("response_metadata") or {}).get("model_name"),
            "gen_ai.usage.input_tokens": usage.get("input_tokens"),
            "gen_ai.usage.output_tokens": usage.get("output_tokens"),
        }
        if self._content:
            told["gen_ai.output.messages"] = json.dumps([_message(message)])
        return {name: value for name, value in told.items() if value is not None}


def _name(run: Run) -> str:
    """Return the span's name, as the conventions want it where they speak of the run."""
    if run.run_type in _LLM:
        return f"chat {(run.metadata or {}).get('ls_model_name', run.name)}"
    return run.name if run.parent_run_id else f"invoke_agent {run.name}"


def _score(key: str, score: float, comment: str | None = None) -> dict[str, str | float]:
    explained = {} if comment is None else {"gen_ai.evaluation.explanation": comment}
    return {"gen_ai.evaluation.name": key, "gen_ai.evaluation.score.value": score, **explained}


def _user_id(inputs: Mapping[str, Any]) -> str | None:
    """Return the raw id of the user that a request is of."""
    request = inputs.get("input", inputs)
    user_id = request.get("user_id") if isinstance(request, Mapping) else getattr(request, "user_id", None)
    return None if user_id is None else str(user_id)


def _messages(inputs: Mapping[str, Any]) -> list[Any]:
    return [message for batch in inputs.get("messages", ()) for message in batch]


def _message(message: Any) -> dict[str, object]:
    """Return a message by the conventions' JSON schema."""
    if isinstance(message, BaseMessage):
        role, content = message.type, str(message.text)
    else:
        kwargs = message.get("kwargs", message)
        role, content = kwargs.get("type", "ai"), str(kwargs.get("content", ""))
    roles = {"human": "user", "ai": "assistant"}
    return {"role": roles.get(role, role), "parts": [{"type": "text", "content": redact(content)}]}


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
