"""A server on the loopback interface that answers every request alike, after a while: what clients are measured with.

It is a process of its own, so that it takes no time from the client, and does nothing that costs any.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "1\n2\n3"}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 6, "total_tokens": 106},
    }
).encode()
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER)
_RESPONSE = _HEAD + _ANSWER


@contextmanager
def slow_server(latency_s: float) -> Iterator[str]:
    """Run the server until the end of the block; yields the address that an OpenAI client is given."""
    command = [sys.executable, "-m", __name__, str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        finally:
            server.terminate()


class _SlowAnswers(asyncio.Protocol):
    """One connection: every request on it is answered after the latency, unless the client has gone by then."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (length := _request_length(self._received)) is not None:
            self._received = self._received[length:]
            asyncio.get_running_loop().call_later(self._latency_s, self._transport.write, _RESPONSE)


def _request_length(received: bytes) -> int | None:
    """Return the bytes of the first request, head and body; None where it has not all come."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    content = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return len(head) + len(end) + content if len(body) >= content else None


async def _serve(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _SlowAnswers(latency_s), "127.0.0.1", 0, backlog=256)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
