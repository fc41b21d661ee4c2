"""`promptailor serve-model`: any model behind the protocol of OpenAI's chat completions.

For programs in other languages or on other machines; concurrent requests reach the model's batches together. A request
that names its candidates (by the ranking's schema, the header `X-Candidate-Labels` or the field `labels`) is ranked by
models that can, and `logprobs` are then those of the labels.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from promptailor.app.backends import ModelSpec, resolve_model
from promptailor.app.backends.openai_readouts import LABELS_HEADER
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.chat_completions import ChatAnswer, ChatRequest, ProtocolError
from promptailor.app.settings import Settings
from promptailor.prompts.errors import InputError, MissingExtraError, PromptailorError

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError(f"serve-model: ({error.name} is not installed)", "serve") from None

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 2**20
"""Of a request; a prompt with fifty candidates and their histories has some ten thousand."""
SHUTDOWN_S = 5
"""Seconds that requests in flight may take to finish when the server is stopped."""


def serve_model(
    text: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    latency_ms: float = 0.0,
    api_key_env: str | None = None,
    ready: Callable[[str], None],
) -> None:
    """Serve a model until the process is interrupted.

    Args:
        text: the model string; requests name the model without its options.
        host: address to listen on.
        port: 0 takes a free one.
        latency_ms: milliseconds that every answer is held back, as a distant server would.
        api_key_env: environment variable that holds the key clients must send; none where empty.
        ready: called with one line when requests are answered.

    Raises:
        SpecError: no such model.
        InputError: the address cannot be listened on, or the key's variable is not set.
    """
    spec = ModelSpec.parse(text)
    name = str(spec.without(*spec.options))
    app = model_app(resolve_model(text, Settings()), name, api_key=_api_key(api_key_env), latency_s=latency_ms / 1000.0)
    with listen(host, port) as listener:
        address = address_of(host, listener)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_S)
        server = AnnouncingServer(config, lambda: ready(f"Serving {name} at http://{address}/v1"))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # raised once more after a clean stop
            logger.info("stopped")


class AnnouncingServer(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._ready()


def model_app(model: BaseChatModel, name: str, *, api_key: SecretStr | None = None, latency_s: float = 0.0) -> FastAPI:
    """Make the web application that serves a model.

    Args:
        model: answers; asked from one event loop.
        name: by which requests name it.
        api_key: that requests must carry; None to ask for none.
        latency_s: seconds that every answer is held back.
    """
    app = FastAPI(title="Promptailor model", openapi_url=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        _authorise(request, api_key)
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "promptailor"}],
        }

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        _authorise(request, api_key)
        asked = ChatRequest.parse(await _body(request), request.headers.get(LABELS_HEADER))
        if asked.model != name:
            raise ProtocolError(
                404, f"the model {asked.model!r} does not exist; there is {name}", param="model", code="model_not_found"
            )
        await asyncio.sleep(latency_s)
        answer = await _answer(model, name, asked)
        if asked.stream:
            return StreamingResponse(answer.events(), media_type="text/event-stream")
        return JSONResponse(answer.completion())

    @app.exception_handler(ProtocolError)
    async def refused(_: Request, error: ProtocolError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(HTTPException)
    async def no_such_page(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(ProtocolError(error.status_code, error.detail).body, error.status_code)

    return app


async def _answer(model: BaseChatModel, name: str, asked: ChatRequest) -> ChatAnswer:
    """Ask the model.

    Raises:
        ProtocolError: the model refuses the prompt (400) or fails (500); only the log says how.
    """
    labels = asked.schema_labels() or asked.labels
    options: dict[str, Any] = {}
    if isinstance(model, RankingChat) and labels:
        options["labels"] = tuple(labels)
    if isinstance(model, RankingChat) and model.in_process and asked.limit and not asked.response_format:
        options["max_new_tokens"] = asked.limit
    prompt = [message.to_langchain() for message in asked.messages]
    try:
        message = await model.ainvoke(prompt, stop=asked.stops or None, **options)
    except PromptailorError as error:
        raise ProtocolError(400, str(error)) from None
    except Exception as error:  # a model may raise anything, which must not end the server
        logger.exception("%s failed", name)
        raise ProtocolError(500, f"the model failed: {type(error).__name__}") from None
    return ChatAnswer.of(asked, message, prompt, name)


def _authorise(request: Request, api_key: SecretStr | None) -> None:
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if api_key is not None and not secrets.compare_digest(sent.encode(), api_key.get_secret_value().encode()):
        raise ProtocolError(401, "send the key as `Authorization: Bearer KEY`", code="invalid_api_key")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ProtocolError(413, f"a request may have {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _api_key(variable: str | None) -> SecretStr | None:
    if variable is None:
        return None
    if not (value := os.environ.get(variable)):
        raise InputError(f"--api-key-env {variable}: the environment variable is not set")
    return SecretStr(value)


def address_of(host: str, listener: socket.socket) -> str:
    """Return host and port as a URL has them."""
    return f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def listen(host: str, port: int) -> socket.socket:
    """Take an address, port 0 a free one; raise `InputError` where it cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: {error.strerror or error}; name another port, or 0 for a free one"
        ) from None
