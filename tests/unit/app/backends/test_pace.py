"""Requests in flight, requests per minute, and pauses."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from promptailor.app.backends.pace import Pace


def test_no_more_than_so_many_coroutines_are_in_flight() -> None:
    pace, flying, most = Pace(concurrency=3), 0, 0

    async def request() -> None:
        nonlocal flying, most
        async with pace.aslot():
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0.001)
            flying -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(request() for _ in range(20)))

    asyncio.run(all_of_them())
    asyncio.run(all_of_them())  # another event loop has places of its own
    assert most == 3


def test_no_more_than_so_many_threads_are_in_flight() -> None:
    pace, flying, most = Pace(concurrency=2), 0, 0

    def request(_: int) -> None:
        nonlocal flying, most
        with pace.slot():
            flying += 1
            most = max(most, flying)
            time.sleep(0.001)
            flying -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(request, range(20)))
    assert most <= 2


def test_a_rate_spreads_requests_over_time() -> None:
    pace = Pace(requests_per_minute=1_200)  # one every 50 ms

    async def all_of_them() -> None:
        async def request() -> None:
            async with pace.aslot():
                pass

        await asyncio.gather(*(request() for _ in range(5)))

    started = time.perf_counter()
    asyncio.run(all_of_them())
    assert time.perf_counter() - started > 0.15


def test_a_pause_holds_everybody_back() -> None:
    pace = Pace()
    pace.pause(0.05)
    started = time.perf_counter()
    with pace.slot():
        assert time.perf_counter() - started > 0.04


def test_requests_of_a_burst_start_one_after_another() -> None:
    pace = Pace(apart_s=0.01)

    async def request() -> float:
        async with pace.aslot():
            return time.monotonic()

    async def all_of_them() -> list[float]:
        return await asyncio.gather(*(request() for _ in range(6)))

    before = time.monotonic()
    starts = asyncio.run(all_of_them())
    assert starts[-1] - before >= 0.05
    assert starts == sorted(starts)
