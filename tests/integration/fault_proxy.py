"""An HTTP proxy that breaks a share of what passes through it, in the ways that servers and networks do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

Fault = Literal[
    "rate_limit",  # 429 with Retry-After
    "error",  # 500
    "unavailable",  # 503
    "reset",  # the connection breaks before an answer
    "hang",  # no answer, until the client gives up
    "cut_off",  # the connection ends in the middle of the answer
    "slow",  # the answer comes in drips
    "truncated",  # a whole HTTP response, with half of the JSON
    "empty",  # an answer without a text
    "wrong_role",  # an answer that is the user's
    "huge",  # an answer with 1 MB of text
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

_STATUS: dict[Fault, str] = {
    "rate_limit": "429 Too Many Requests",
    "error": "500 Internal Server Error",
    "unavailable": "503 Service Unavailable",
}
_DRIPS = 5


class FaultProxy:
    """Stands before a server: `with FaultProxy(url, rate=0.2) as proxy: ...  # ask proxy.url`.

    Args:
        upstream_url: of the server, path included.
        rate: share of the POST requests that meet a fault.
        seed: of the draws. They depend on a request's body and on how often it came, not on who was first.
        faults: to draw from.
        script: faults of the first requests, in order of arrival; None for none. `rate` holds for those after.
        retry_after_s: what a 429 asks for.
        drip_s: seconds between the parts of a slow answer.
    """

    def __init__(
        self,
        upstream_url: str,
        rate: float = 0.2,
        seed: int = 0,
        faults: Sequence[Fault] = FAULTS,
        *,
        script: Sequence[Fault | None] = (),
        retry_after_s: float = 0.05,
        drip_s: float = 0.02,
    ) -> None:
        self._upstream = urlsplit(upstream_url)
        self._rate, self._seed, self._faults, self._script = rate, seed, tuple(faults), list(script)
        self._retry_after_s, self._drip_s = retry_after_s, drip_s
        self._seen: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._port = 0
        self._server: asyncio.Server | None = None
        self.requests = 0
        """POST requests that came in."""
        self.injected: Counter[Fault] = Counter()
        """Faults, by kind."""
        self.passed = 0
        """Answers of the server that went to the client in full and unchanged."""
        self.spoiled = 0
        """Answers that went to the client in full, but empty, huge or in the wrong role."""

    @property
    def url(self) -> str:
        """Where to ask; the path is the server's."""
        return f"http://127.0.0.1:{self._port}{self._upstream.path}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in serving:  # those that hang
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # a client that went away
            head, body = await _message(reader)
            fault = self._draw(body) if head.startswith(b"POST") else None
            if fault in _STATUS:
                writer.write(self._refusal(fault))
            elif fault == "reset":
                _reset(writer)
                return
            elif fault == "hang":
                await reader.read()
            else:
                await self._forward(head, body, fault, writer)
            await writer.drain()
        writer.close()

    def _draw(self, body: bytes) -> Fault | None:
        self.requests += 1
        if self._script:
            fault = self._script.pop(0)
        else:
            digest = hashlib.sha256(body).hexdigest()
            self._seen[digest] += 1
            rng = random.Random(f"{self._seed} {digest} {self._seen[digest]}")
            fault = rng.choice(self._faults) if rng.random() < self._rate else None
        if fault:
            self.injected[fault] += 1
        return fault

    def _refusal(self, fault: Fault) -> bytes:
        message = f"injected {fault}"
        extra = f"Retry-After: {self._retry_after_s}\r\n" if fault == "rate_limit" else ""
        body = json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": None}})
        return _response(_STATUS[fault], body.encode(), extra)

    async def _forward(self, head: bytes, body: bytes, fault: Fault | None, writer: asyncio.StreamWriter) -> None:
        status, answer = await self._ask(head, body)
        if fault in _SPOILERS and status.startswith("200"):
            data = json.loads(answer)
            _SPOILERS[fault](data["choices"][0]["message"])
            answer = json.dumps(data).encode()
        elif fault == "truncated":
            answer = answer[: len(answer) // 2]
        response = _response(status, answer)
        if fault == "cut_off":
            writer.write(response[: -len(answer) // 2])
            return
        self.passed += fault in (None, "slow")  # before it arrives, so that a client never knows more than the counts
        self.spoiled += fault in _SPOILERS
        step = len(response) // _DRIPS + 1 if fault == "slow" else len(response)
        for start in range(0, len(response), step):
            writer.write(response[start : start + step])
            await writer.drain()
            await asyncio.sleep(self._drip_s if fault == "slow" else 0.0)

    async def _ask(self, head: bytes, body: bytes) -> tuple[str, bytes]:
        """Send a request on; return the status and the body, without its transfer coding."""
        assert self._upstream.hostname is not None
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
            writer.write(b"\r\n".join([*lines, b"Connection: close", b"", body]))
            answer_head, answer = await _message(reader, to_the_end=True)
            return answer_head.split(b"\r\n")[0].decode().partition(" ")[2], answer
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader, *, to_the_end: bool = False) -> tuple[bytes, bytes]:
    """Read the head and the body of an HTTP message."""
    head = await reader.readuntil(b"\r\n\r\n")
    headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if length := headers.get(b"content-length"):
        return head, await reader.readexactly(int(length))
    return head, _unchunked(await reader.read()) if to_the_end else b""


def _unchunked(body: bytes) -> bytes:
    """Join the chunks of a streamed answer."""
    parts = []
    while size := int(body.split(b"\r\n", 1)[0] or b"0", 16):
        rest = body.split(b"\r\n", 1)[1]
        parts.append(rest[:size])
        body = rest[size + 2 :]
    return b"".join(parts)


def _response(status: str, body: bytes, extra: str = "") -> bytes:
    kind = "text/event-stream" if body.startswith(b"data:") else "application/json"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


_SPOILERS: dict[Fault | None, Callable[[dict[str, Any]], None]] = {
    "empty": lambda message: message.update(content=""),
    "wrong_role": lambda message: message.update(role="user"),
    "huge": lambda message: message.update(content="1\n" * 2**19),
}
