"""Concurrent calls become batches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from promptailor.app.backends.gather import Gatherer


def test_calls_that_wait_while_the_worker_is_busy_become_one_batch() -> None:
    sizes: list[int] = []
    busy, go = threading.Event(), threading.Event()

    def answer(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        busy.set()
        go.wait(5)
        return [2 * n for n in batch]

    gatherer: Gatherer[int, int] = Gatherer(answer, max_batch_size=8)
    first = gatherer.submit(0)
    assert busy.wait(5)
    rest = [gatherer.submit(n) for n in range(1, 12)]
    go.set()
    assert [f.result(5) for f in (first, *rest)] == [2 * n for n in range(12)]
    assert sizes == [1, 8, 3]


def test_an_exception_reaches_every_caller_of_its_batch_and_the_worker_lives_on() -> None:
    def answer(batch: list[int]) -> list[int]:
        if 0 in batch:
            raise ValueError("zero")
        return batch

    gatherer: Gatherer[int, int] = Gatherer(answer, max_batch_size=1)
    with pytest.raises(ValueError, match="zero"):
        gatherer.submit(0).result(5)
    assert gatherer.submit(3).result(5) == 3


def test_many_threads_get_their_own_answers() -> None:
    gatherer: Gatherer[int, str] = Gatherer(lambda batch: [str(n) for n in batch], max_batch_size=16)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda n: gatherer.submit(n).result(5), range(500))) == [str(n) for n in range(500)]


def test_a_cancelled_call_is_left_out() -> None:
    seen: list[int] = []
    release = threading.Event()

    def answer(batch: list[int]) -> list[int]:
        release.wait(5)
        seen.extend(batch)
        return batch

    gatherer: Gatherer[int, int] = Gatherer(answer, max_batch_size=1)
    first, second, third = (gatherer.submit(n) for n in range(3))
    second.cancel()
    release.set()
    assert (first.result(5), third.result(5)) == (0, 2)
    assert seen == [0, 2]
