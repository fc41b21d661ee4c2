"""The web application: routes, the guard around them, and errors as one useful line."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from promptailor.app.server.events import refusal
from promptailor.app.server.guard import RETRY_AFTER_S, Limits, install
from promptailor.app.server.metrics import Metrics
from promptailor.app.server.routes import api, site
from promptailor.app.server.schemas import Problem
from promptailor.app.server.service import Service
from promptailor.prompts.errors import PromptailorError

ServiceFactory = Callable[[Metrics], AbstractAsyncContextManager[Service]]
"""Opens what the routes call, warmed up, for the lifetime of the application."""

_DESCRIPTION = """Ranks candidates with a language model whose prompt is tailored to each user.

Errors are one line: `{"detail": ..., "field": ..., "request_id": ...}`."""
_NAME = re.compile(r"[a-z_]+|\d+")
"""Parts of an error's location that name a field or a place; others name the member of a union."""


def create_app(open_service: ServiceFactory, limits: Limits | None = None) -> FastAPI:
    """Make the application; the service is opened when it starts and closed when it stops."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(metrics) as service:
            app.state.service = service
            yield

    app = FastAPI(
        title="Promptailor",
        version=version("promptailor"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.limits = limits or Limits()
    app.include_router(api)
    app.include_router(site)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(PromptailorError, _failed)
    app.add_exception_handler(TimeoutError, _late)
    app.add_exception_handler(HTTPException, _http_error)
    install(app, app.state.limits, metrics)
    return app


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"][1:] if _NAME.fullmatch(str(part)) and part not in ("str", "int")]
    if first["type"] == "json_invalid":
        return problem(request, 400, "the body is not JSON")
    if not where and "json" not in request.headers.get("content-type", ""):
        return problem(request, 415, "send the body as application/json")
    if not where and first["type"] in ("missing", "model_attributes_type", "dict_type"):
        return problem(request, 422, "the body must be a JSON object")
    field = ".".join(where) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return problem(request, 422, f"{field}: {message}" if field else message, field=field)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PromptailorError)
    status, detail, field = refusal(error)
    return problem(request, status, detail, field=field)


async def _late(request: Request, error: Exception) -> JSONResponse:
    return problem(request, 504, "the answer took too long; ask for less, or try again")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = problem(request, error.status_code, str(error.detail).lower())
    response.headers.update(error.headers or {})
    return response


def problem(request: Request, status: int, detail: str, *, field: str | None = None) -> JSONResponse:
    """Return an error as every route says it."""
    request_id = getattr(request.state, "request_id", None)
    body = Problem(detail=" ".join(detail.split())[:500], field=field, request_id=request_id)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return JSONResponse(body.model_dump(), status, headers=headers)
