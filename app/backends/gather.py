"""Concurrent calls to an in-process model, gathered into batches.

LangGraph runs many users in threads, each of which asks for one answer; a forward pass over 32 prompts costs far less
than 32 passes. A worker takes whatever is waiting when it becomes free, so that a lone call is not kept waiting.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_LINGER_S = 0.002
"""How long the worker waits for one more request before it starts; callers that a batch has just freed come back
within about a millisecond of each other."""


class Gatherer(Generic[Request, Answer]):
    """Hands the requests of many threads to one function, in batches.

    Args:
        answer: answers a batch, in order; runs in the worker thread only.
        max_batch_size: requests per batch at most.
        prepare: runs once in the worker thread, before the first batch.
    """

    def __init__(
        self,
        answer: Callable[[list[Request]], list[Answer]],
        max_batch_size: int,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._answer, self._max_batch_size, self._prepare = answer, max_batch_size, prepare
        self._waiting: queue.SimpleQueue[tuple[Request, Future[Answer]]] = queue.SimpleQueue()
        self._start_lock = threading.Lock()
        self._worker: threading.Thread | None = None

    def submit(self, request: Request) -> Future[Answer]:
        """Queue a request; its future carries the answer, or the exception its batch raised."""
        future: Future[Answer] = Future()
        self._waiting.put((request, future))
        with self._start_lock:
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="gatherer", daemon=True)
                self._worker.start()
        return future

    def _work(self) -> None:
        self._prepare()
        while True:
            batch = self._take()
            try:
                answers = self._answer([request for request, _ in batch])
            except Exception as error:  # the callers' threads must see it, whatever it is
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)

    def _take(self) -> list[tuple[Request, Future[Answer]]]:
        batch = [self._waiting.get()]
        while len(batch) < self._max_batch_size:
            try:
                batch.append(self._waiting.get(timeout=_LINGER_S))
            except queue.Empty:
                break
        return [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
