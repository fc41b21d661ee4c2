"""The routes of the API and the page."""

from __future__ import annotations

import asyncio
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from promptailor.app.redact import redact
from promptailor.app.server.events import events
from promptailor.app.server.schemas import (
    MAX_ID,
    ChatBody,
    ExplainBody,
    FeedbackBody,
    Forgotten,
    Health,
    Problem,
    RankBody,
    Start,
)
from promptailor.app.server.service import Service
from promptailor.graph.attribution import Attribution
from promptailor.graph.state import RankOutput

ANSWER_ID = "X-Answer-Id"
_SCRIPTS = ("answer.js", "api.js", "app.js", "dom.js", "memory.js", "prompt.js", "theme.js")
ASSETS = {
    "app.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(_SCRIPTS, "text/javascript; charset=utf-8"),
}
"""The page's files by name, and nothing else."""
_PAGE = resources.files("promptailor.app.server").joinpath("static")
_CONTENT = {name: _PAGE.joinpath(name).read_bytes() for name in ("index.html", *ASSETS)}
"""Read once: no path of a request ever reaches the disk."""


def _problem(description: str) -> dict[str, object]:
    return {"model": Problem, "description": description}


REFUSALS: dict[int | str, dict[str, object]] = {
    400: _problem("The body is not JSON."),
    413: _problem("The body is too long."),
    415: _problem("The body is not sent as application/json."),
    422: _problem("A field is wrong; `field` names it."),
    502: _problem("The model failed, after every retry."),
    503: _problem("Too many requests at once, or the budget is spent; `Retry-After` says when to come again."),
    504: _problem("The answer took too long."),
}

api = APIRouter(prefix="/api", responses=REFUSALS)
site = APIRouter()


def service_of(request: Request) -> Service:
    """Return the application's service."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]


def _seconds(request: Request) -> float:
    seconds: float = request.app.state.limits.answer_s
    return seconds


AnswerSeconds = Annotated[float, Depends(_seconds)]


@api.post(
    "/rank",
    summary="Rank candidates",
    response_description="The candidates, best first, and what each step of the prompt was.",
)
async def rank(body: RankBody, response: Response, service: TheService, seconds: AnswerSeconds) -> RankOutput:
    """Rank the candidates of one user. The header `X-Answer-Id` names the answer in feedback and explanations."""
    async with asyncio.timeout(seconds):
        answer_id, output = await service.rank(body)
    response.headers[ANSWER_ID] = answer_id
    return output


@api.post(
    "/chat",
    summary="Say something",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}},
)
async def chat(body: ChatBody, service: TheService, seconds: AnswerSeconds) -> StreamingResponse:
    """Run one turn of a conversation as server-sent events.

    The events are `conversation` (its id, to go on with), `understanding`, `candidates`, one `step` for each prompt,
    `ranking` (the answer's id and its items with reasons), `message` (the reply in words) and `done`; or `error`. The
    data of each is one JSON object.
    """
    turn = service.talk(body)
    async with asyncio.timeout(seconds):
        first = await anext(turn)  # what is refused at once is refused with a status, not in a stream
    return StreamingResponse(events(first, turn, seconds), media_type="text/event-stream")


@api.post("/explain", summary="Say what each part of the prompt did")
async def explain(body: ExplainBody, service: TheService, seconds: AnswerSeconds) -> Attribution:
    """Ask again with each pattern's choice replaced by the manual prompt's, and say how far each item moves."""
    async with asyncio.timeout(seconds):
        return await service.explain(body.answer_id, body.request)


@api.post("/feedback", status_code=204, summary="Vote on an item of an answer")
async def feedback(body: FeedbackBody, service: TheService) -> Response:
    """Keep a vote beside the probabilities of the sentences that the answer was made with."""
    await service.vote(body.answer_id, body.item_id, body.vote)
    return Response(status_code=204)


@api.get("/users", summary="What the page begins with")
async def users(service: TheService) -> Start:
    """Return example users and suggestions."""
    return service.start


@api.delete("/users/{user_id}", summary="Forget a user")
async def forget(
    user_id: Annotated[str, Path(min_length=1, max_length=MAX_ID, description="Whom to forget.")], service: TheService
) -> Forgotten:
    """Delete the answers, votes and conversations of a user; who is not known is forgotten already."""
    return await service.forget(user_id)


@site.get("/health", summary="Whether the server can answer")
async def health(service: TheService) -> Health:
    """Ask the database, and say what serves."""
    await asyncio.to_thread(service.feedback.check)
    return Health(model=redact(service.resources.recommender.spec), policy=service.context.policy)


@site.get("/metrics", summary="Figures for Prometheus", response_class=Response)
async def metrics(service: TheService) -> Response:
    """Return counters in Prometheus's text format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@site.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    return _file("index.html", "text/html; charset=utf-8")


@site.get("/static/{name}", include_in_schema=False)
async def asset(name: str) -> Response:
    """Return one of the page's files."""
    if name not in ASSETS:
        return JSONResponse(Problem(detail="there is no such file").model_dump(), 404)
    return _file(name, ASSETS[name])


def _file(name: str, media_type: str) -> Response:
    return Response(_CONTENT[name], media_type=media_type, headers={"Cache-Control": "no-cache"})
