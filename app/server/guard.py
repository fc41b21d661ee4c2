"""What every request passes: a bounded body, a bounded number at once, an id, security headers, a line in the log.

Plain ASGI, so that streams pass through unbuffered. The body is read here, whole and within its limits, before any
route sees it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptailor.app.redact import redact
from promptailor.app.server.metrics import Metrics
from promptailor.app.server.schemas import Problem

logger = logging.getLogger(__name__)

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
RETRY_AFTER_S = 1
_REQUEST_ID = re.compile(r"[\w-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may take."""

    body_bytes: int = 2**20
    body_s: float = 10.0
    """Seconds in which a body must have come."""
    at_once: int = 128
    """Requests to `/api/` in progress; the next is told to come again."""
    answer_s: float = 60.0
    """Seconds that an answer may take, and a stream from one event to the next."""


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, limits: Limits, metrics: Metrics) -> None:
        """Put it around an application."""
        self._app, self._limits, self._metrics = app, limits, metrics
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        response = _Response(send, request_id, no_store=scope["path"].startswith("/api/"))
        started = time.perf_counter()
        try:
            await self._serve(scope, receive, response)
        except Exception as error:  # whatever a route raises: the client is told one line, the log how
            logger.exception("request %s failed", request_id)
            if response.status is None:
                problem = Problem(detail=f"the server failed ({type(error).__name__})", request_id=request_id)
                await JSONResponse(problem.model_dump(), 500)(scope, receive, response)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            status = response.status or 499  # the client had gone before anything was said
            self._metrics.observe(route, scope["method"], status, seconds)
            logger.info("%s %s %s %d %.0f ms", request_id, scope["method"], route, status, 1_000 * seconds)

    async def _serve(self, scope: Scope, receive: Receive, send: _Response) -> None:
        counted = scope["path"].startswith("/api/")
        if counted and self._running >= self._limits.at_once:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return await self._refuse(503, "too many requests at once; come again", scope, receive, send, headers)
        self._running += counted
        self._metrics.in_progress.set(self._running)
        try:
            try:
                async with asyncio.timeout(self._limits.body_s):
                    body = await _read(scope, receive, self._limits.body_bytes)
            except TimeoutError:
                return await self._refuse(408, "the body took too long to come", scope, receive, send)
            if body is None:
                detail = f"a body may have {self._limits.body_bytes} bytes"
                return await self._refuse(413, detail, scope, receive, send, {"Connection": "close"})
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._running -= counted
            self._metrics.in_progress.set(self._running)

    async def _refuse(
        self,
        status: int,
        detail: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: dict[str, str] | None = None,
    ) -> None:
        problem = Problem(detail=detail, request_id=scope["state"]["request_id"])
        await JSONResponse(problem.model_dump(), status, headers=headers)(scope, receive, send)


class _Response:
    """Passes a response on with the headers that every one has, and keeps its status."""

    def __init__(self, send: Send, request_id: str, *, no_store: bool) -> None:
        self._send, self._request_id, self._no_store = send, request_id, no_store
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers["X-Request-Id"] = self._request_id
            if self._no_store:
                headers["Cache-Control"] = "no-store"
        await self._send(message)


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """Return a request's body; None where it is longer than the limit."""
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body which was read already, and then what comes."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


class RedactingFilter(logging.Filter):
    """Blots keys out of log records, tracebacks included."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean a record in place."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(self._formatter.formatException(record.exc_info))
        return True


def install(app: FastAPI, limits: Limits, metrics: Metrics) -> None:
    """Put the guard around an application."""
    app.add_middleware(Guard, limits=limits, metrics=metrics)
