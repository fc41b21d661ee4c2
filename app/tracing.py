"""Traces: where runs are told of, under which names, and what is taken out before anything leaves the process.

Nothing of our own to configure: LANGSMITH_TRACING=true and its companions send to LangSmith, and
OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) sends OpenTelemetry spans to any collector (`app/spans.py`). Either
way users appear under pseudonyms and keys not at all. How the prompt evolved stands in the graph's own step runs
(`graph/tracing.py`).
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig

from promptailor.app.pseudonym import PREFIX, namer, pseudonym
from promptailor.app.redact import redact, redactor
from promptailor.app.settings import Settings
from promptailor.graph.tracing import named_config, start_recording

if TYPE_CHECKING:
    from promptailor.app.scores import Scores
    from promptailor.app.spans import SpanTracer

logger = logging.getLogger(__name__)

_LANGSMITH = ("LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING", "LANGCHAIN_TRACING")
_OTLP = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_USER_KEYS = frozenset({"user_id", "langgraph_auth_user_id"})
_USER_IN_TEXT = re.compile(r"""(\buser_id=)(['"])(.*?)\2""")
_PSEUDONYM = re.compile(re.escape(PREFIX) + "[0-9a-f]{16}")

_lock = threading.Lock()


@dataclass
class _Listening:
    """What hears of runs, once it was started."""

    scores: Scores | None = None
    spans: SpanTracer | None = None


_listening = _Listening()


def start_tracing(settings: Settings | None = None, *, always: bool = False) -> None:
    """Begin to trace, where the environment says so; whoever builds a graph calls it, and only the first call counts.

    Args:
        settings: where the key of the pseudonyms is.
        always: also cut node payloads down where only a tracer that we do not know of listens.
    """
    if not (always or sends_to_langsmith() or sends_spans()):
        return
    settings = settings or Settings()
    with _lock:
        start_recording()
        if sends_to_langsmith() and _listening.scores is None:
            _listening.scores = _start_langsmith(settings)
        if sends_spans() and _listening.spans is None:
            _listening.spans = _start_spans(settings)


def sends_to_langsmith() -> bool:
    """Whether the environment turns LangSmith on."""
    return any(os.environ.get(name, "").casefold() == "true" for name in _LANGSMITH)


def sends_spans() -> bool:
    """Whether the environment names an OpenTelemetry collector, and LangSmith's own exporter does not serve it."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").casefold() == "true"
    off = off or os.environ.get("OTEL_TRACES_EXPORTER", "").casefold() == "none"
    langsmith_does = sends_to_langsmith() and os.environ.get("LANGSMITH_OTEL_ENABLED", "").casefold() == "true"
    return any(os.environ.get(name) for name in _OTLP) and not (off or langsmith_does)


def run_config(
    policy: str,
    *,
    user_id: str | int | None = None,
    thread_id: str | None = None,
    task: str = "rank",
    tags: Sequence[str] = (),
    settings: Settings | None = None,
) -> RunnableConfig:
    """Return the config under which one request is found again in a trace: name, tags, pseudonymous user, run id.

    Args:
        policy: that writes the prompt.
        user_id: of the request; only its pseudonym stands in the config.
        thread_id: of a conversation, if it is part of one.
        task: `rank`, `chat` or `explain`.
        tags: further ones.
        settings: where the key of the pseudonyms is.

    The config's `run_id` is what `log_feedback` takes, so a config serves one run.
    """
    from langsmith import uuid7  # noqa: PLC0415 - where runs are made, it is imported anyway

    metadata: dict[str, Any] = {"promptailor.policy": policy}
    if user_id is not None:
        metadata["user_id"] = pseudonym(user_id, settings)
    if thread_id is not None:
        metadata["thread_id"] = thread_id
    config = named_config(task, policy, *tags)
    config["run_id"], config["metadata"] = uuid7(), metadata
    if thread_id is not None:
        config["configurable"] = {"thread_id": thread_id}
    return config


def log_feedback(run_id: UUID | str, key: str, score: float, *, comment: str | None = None) -> None:
    """Attach a score to a run that was traced, in the background; without tracing, do nothing.

    Args:
        run_id: of the request's own run, from `run_config`.
        key: `thumbs`, or whatever else the score is called.
        score: the higher the better.
        comment: in the user's words.
    """
    run, said = UUID(str(run_id)), None if comment is None else redact(comment)
    if _listening.scores:
        _listening.scores.send(run, run, key, score, said)
    if _listening.spans:
        _listening.spans.evaluation(run, key, score, said)


def anonymizer(settings: Settings | None = None) -> Callable[[Any], Any]:
    """Return what takes keys and user ids out of a payload; hand it to a LangSmith client of your own."""
    name_user = namer(settings)

    def clean(payload: Any) -> Any:
        blot = redactor()

        def text(value: str) -> str:
            hidden = _USER_IN_TEXT.sub(lambda found: f"{found[1]}{found[2]}{name(found[3])}{found[2]}", value)
            return blot(hidden)

        def name(user_id: str | int) -> str:
            given = str(user_id)
            return given if _PSEUDONYM.fullmatch(given) else name_user(given)

        def walk(value: Any) -> Any:
            if isinstance(value, str):
                return text(value)
            if isinstance(value, dict):
                return {
                    key: name(part) if key in _USER_KEYS and isinstance(part, str | int) else walk(part)
                    for key, part in value.items()
                }
            return [walk(part) for part in value] if isinstance(value, list | tuple) else value

        return walk(payload)

    return clean


def _start_langsmith(settings: Settings) -> Scores:
    """Give LangSmith a client that hides what must not leave; one with an anonymizer of its own is left alone."""
    from langsmith import Client, configure  # noqa: PLC0415
    from langsmith.run_trees import get_cached_client  # noqa: PLC0415

    from promptailor.app.scores import RewardTracer, Scores  # noqa: PLC0415

    clean = anonymizer(settings)
    if get_cached_client(anonymizer=clean)._anonymizer is None:
        configure(client=Client(anonymizer=clean))
    scores = Scores()
    _listen(RewardTracer(scores))
    return scores


def _start_spans(settings: Settings) -> SpanTracer | None:
    try:
        from promptailor.app.spans import SpanTracer, span_provider  # noqa: PLC0415
    except ImportError:
        logger.warning("OTEL_EXPORTER_OTLP_ENDPOINT: no spans are sent; pip install 'promptailor[tracing]'")
        return None
    tracer = SpanTracer(span_provider(), name_user=namer(settings))
    _listen(tracer)
    return tracer


def _listen(tracer: BaseCallbackHandler) -> None:
    """Let a tracer hear of every run of the process, in whichever thread."""
    from langchain_core.tracers.context import register_configure_hook  # noqa: PLC0415 - imports LangSmith's client

    register_configure_hook(ContextVar(type(tracer).__name__, default=tracer), inheritable=True)
