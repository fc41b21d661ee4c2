"""How fast a model may be asked: requests in flight, requests per minute, and the pauses a server asks for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from langchain_core.rate_limiters import InMemoryRateLimiter

_CHECK_EVERY_S = 0.01
APART_S = 0.0005
"""Seconds between two requests to a model behind a network, about what one takes of this process's time: sent in one
burst they are answered in one, and each answer then waits for all the others to be read before the next is sent."""


@dataclass(kw_only=True)
class Pace:
    """Bounds on requests, shared by threads and event loops; each kind has `concurrency` places of its own."""

    concurrency: int = 64
    requests_per_minute: float | None = None
    apart_s: float = 0.0
    """Least seconds from one coroutine's request to the next one's."""

    def __post_init__(self) -> None:
        self._threads = threading.BoundedSemaphore(self.concurrency)
        self._loops = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()
        self._limiter = (
            InMemoryRateLimiter(
                requests_per_second=self.requests_per_minute / 60.0, check_every_n_seconds=_CHECK_EVERY_S
            )
            if self.requests_per_minute
            else None
        )
        self._resume_at = 0.0
        self._next_at = 0.0

    def pause(self, seconds: float) -> None:
        """Hold everybody back: a server that is asked for patience by one caller means all."""
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a place, and hold it."""
        with self._threads:
            while (left := self._resume_at - time.monotonic()) > 0:
                time.sleep(left)
            if self._limiter:
                self._limiter.acquire(blocking=True)
            yield

    @asynccontextmanager
    async def aslot(self) -> AsyncIterator[None]:
        """Do what `slot` does without holding up the event loop."""
        loop = asyncio.get_running_loop()
        places = self._loops.get(loop)
        if places is None:
            places = self._loops[loop] = asyncio.Semaphore(self.concurrency)
        async with places:
            while (left := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if self._limiter:
                await self._limiter.aacquire(blocking=True)
            if self.apart_s:
                now = time.monotonic()
                start = max(now, self._next_at)
                self._next_at = start + self.apart_s
                if start > now:
                    await asyncio.sleep(start - now)
            yield
