"""Scores of traced runs as LangSmith feedback: thumbs of users, and the rewards of a training graph's steps."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from uuid import UUID

from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langsmith import Client
from langsmith.run_trees import get_cached_client
from langsmith.utils import get_tracer_project

from promptailor.graph.tracing import STEP_TAG

logger = logging.getLogger(__name__)

KEY = "ndcg"
"""What the reward is called."""


class Scores:
    """Sends scores from a thread of its own, so that neither a request nor training waits for LangSmith."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scores")  # empties its queue at exit

    def send(self, run_id: UUID, trace_id: UUID, key: str, score: float, comment: str | None = None) -> None:
        """Attach a score to a run; what fails is logged."""
        self._thread.submit(self._send, run_id, trace_id, key, score, comment).add_done_callback(_log_failure)

    def _send(self, run_id: UUID, trace_id: UUID, key: str, score: float, comment: str | None) -> None:
        self._client.create_feedback(
            run_id=run_id, trace_id=trace_id, key=key, score=score, comment=comment, session_id=self._project_id
        )

    @cached_property
    def _client(self) -> Client:
        return get_cached_client()

    @cached_property
    def _project_id(self) -> UUID:
        """The project's id; LangSmith makes the project when it gets the first run, so that is sent first."""
        self._client.flush()
        project: UUID = self._client.read_project(project_name=get_tracer_project()).id
        return project


class RewardTracer(BaseTracer):
    """Listens to all runs, and reports the rewards of those that tell of a step, and of each trace its last one."""

    run_inline = True

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self._scores = scores
        self._last: dict[UUID, float] = {}

    @staticmethod
    def _add_child_run(parent_run: Run, child_run: Run) -> None:
        """Keep no tree."""

    def _on_run_update(self, run: Run) -> None:
        if STEP_TAG in (run.tags or ()) and (reward := (run.outputs or {}).get("reward")) is not None:
            self._last[run.trace_id] = reward
            self._scores.send(run.id, run.trace_id, KEY, reward)

    def _persist_run(self, run: Run) -> None:
        """End a trace."""
        if (reward := self._last.pop(run.trace_id, None)) is not None:
            self._scores.send(run.id, run.trace_id, KEY, reward)


def _log_failure(sent: Future[None]) -> None:
    if error := sent.exception():
        logger.warning("a score was not sent to LangSmith: %s", error)
