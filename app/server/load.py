"""`promptailor bench --serve`: visitors at once against the real server, in a process of its own, on this machine.

A visitor opens the page, says something, reads the answer for some seconds, votes, and says the next thing.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from promptailor.app.bench import Bench, Row
from promptailor.prompts.errors import InputError

VISITORS = 50
READING_S = (1.0, 3.0)
"""Seconds between an answer and the next message, drawn uniformly."""
MESSAGES = (
    "something funny for tonight",
    "science fiction, but less violent",
    "a thriller from the 90s",
    "something else",
    "less romance, please",
    "something like the second one",
    "why the first one?",
    "I liked Alien and Fargo",
)
P99_S = 3.0
FIRST_S = 2.0
GROWTH_MB = 50.0
"""Allowed between the first sixth of the time, when caches fill, and the end."""
_START_S = 300.0


@dataclass
class _Seen:
    """What all visitors saw."""

    first_s: list[float] = field(default_factory=list)
    """From sending a visitor's first message to her ranked list."""
    answer_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def measure_load(*, seconds: float, visitors: int = VISITORS, model: str) -> Bench:
    """Serve a model and visit it.

    Args:
        seconds: how long visitors keep coming back.
        visitors: at once.
        model: the recommender's spec.

    Raises:
        InputError: the server does not start.
    """
    with _serving(model) as url:
        seen, memory = asyncio.run(_visit(url, visitors, seconds))
    settled = memory[len(memory) // 6] if memory else 0.0
    answers = np.array(seen.answer_s or [float("nan")])
    for error in dict.fromkeys(seen.errors):
        sys.stderr.write(f"{error}\n")
    return Bench(
        [
            Row.at_most("serve_errors", len(seen.errors), f"of {len(seen.answer_s) + len(seen.errors):,} answers", 0),
            Row.at_most("serve_p99_s", float(np.quantile(answers, 0.99)), f"s wall, {visitors} visitors", P99_S),
            Row.at_most("serve_p50_s", float(np.quantile(answers, 0.5)), f"s wall, {visitors} visitors", P99_S),
            Row.at_most("serve_first_s", float(np.median(seen.first_s or [float("nan")])), "s wall, median", FIRST_S),
            Row.at_most("serve_growth_mb", max(memory[-1] - settled, 0.0) if memory else 0.0, "MB", GROWTH_MB),
        ]
    )


@contextmanager
def _serving(model: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("promptailor")), "serve", "--port", str(port), "--model", model]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + _START_S
            while not _is_up(url):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise InputError(f"--model {model}: the server did not start; `{' '.join(command[1:])}` says why")
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(20)
            server.kill()


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


async def _visit(url: str, visitors: int, seconds: float) -> tuple[_Seen, list[float]]:
    """Let the visitors come and go; return what they saw, and the server's memory in MB once a second."""
    seen, memory = _Seen(), []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=visitors)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        users = [user["user_id"] for user in (await client.get("/api/users")).json()["users"]]
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(_one_visitor(client, n, users, until, seen)) for n in range(visitors)]
        while time.monotonic() < until:
            memory.append(_resident_mb((await client.get("/metrics")).text))
            await asyncio.sleep(1.0)
        await asyncio.gather(*tasks)
        memory.append(_resident_mb((await client.get("/metrics")).text))
    return seen, memory


async def _one_visitor(client: httpx.AsyncClient, number: int, users: list[str], until: float, seen: _Seen) -> None:
    rng = random.Random(f"visitor {number}")
    await asyncio.sleep(rng.uniform(0, READING_S[0]))
    turn = {"user_id": rng.choice(users) if users and number % 2 else f"visitor-{number}"}
    conversation: str | None = None
    for k in range(10**6):
        if time.monotonic() > until:
            return
        started = time.perf_counter()
        try:
            if k == 0:
                (await client.get("/")).raise_for_status()
            body = {**turn, "message": rng.choice(MESSAGES[:3] if k == 0 else MESSAGES), "conversation": conversation}
            answer = await client.post("/api/chat", json=body)
            answer.raise_for_status()
            if "event: done" not in answer.text:
                raise httpx.HTTPError(answer.text[-300:])
        except httpx.HTTPError as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
        else:
            took = time.perf_counter() - started
            seen.answer_s.append(took)
            if k == 0:
                seen.first_s.append(took)
            conversation = _field(answer.text, "conversation")
            await _vote(client, answer.text, rng, seen)
        await asyncio.sleep(rng.uniform(*READING_S))


async def _vote(client: httpx.AsyncClient, answer: str, rng: random.Random, seen: _Seen) -> None:
    answer_id, item_id = _field(answer, "answer_id"), _field(answer, "item_id")
    if answer_id and item_id and rng.random() < 0.5:
        body = {"answer_id": answer_id, "item_id": item_id, "vote": rng.choice(["up", "down"])}
        voted = await client.post("/api/feedback", json=body)
        if voted.status_code != 204:
            seen.errors.append(f"vote: {voted.status_code} {voted.text[:200]}")


def _field(text: str, name: str) -> str | None:
    found = re.search(rf'"{name}":"([^"]+)"', text)
    return found[1] if found else None


def _resident_mb(metrics: str) -> float:
    found = re.search(r"^process_resident_memory_bytes (\S+)", metrics, re.MULTILINE)
    return float(found[1]) / 2**20 if found else 0.0
