"""Server-sent events on the wire, and what a failure is called there and in responses."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from promptailor.app.redact import redact
from promptailor.app.server.conversation import Event
from promptailor.prompts.errors import BudgetExceededError, InputError, ModelCallError, PromptailorError

logger = logging.getLogger(__name__)

_FIELDS = frozenset({"user_id", "history", "candidates", "domain", "user_profile", "answer_id", "item_id", "message"})


async def events(first: Event, rest: AsyncIterator[Event], seconds: float) -> AsyncIterator[str]:
    """Yield a turn's events as they go over the wire; the last one is `done`, or `error`.

    Args:
        first: the event that has come already.
        rest: those to come.
        seconds: that all of them may take.
    """
    try:
        async with asyncio.timeout(seconds):
            yield _wire(first.event, first.model_dump_json(exclude={"event"}))
            async for event in rest:
                yield _wire(event.event, event.model_dump_json(exclude={"event"}))
        yield _wire("done", "{}")
    except PromptailorError as error:
        _, detail, field = refusal(error)
        yield _wire("error", json.dumps({"detail": detail, "field": field}))
    except TimeoutError:
        yield _wire("error", json.dumps({"detail": "the answer took too long; try again", "field": None}))
    except Exception as error:  # the response has begun, so that this is the only way to say it
        logger.exception("a conversation failed")
        yield _wire("error", json.dumps({"detail": f"the server failed ({type(error).__name__})", "field": None}))


def refusal(error: PromptailorError) -> tuple[int, str, str | None]:
    """Return status, detail and field of an error; a model's own words stay in the log."""
    if isinstance(error, InputError):
        detail = redact(str(error))
        name = detail.partition(":")[0]
        return 422, detail, name if name in _FIELDS else None
    if isinstance(error, BudgetExceededError):
        return 503, "the server's budget is spent", None
    logger.error("%s", redact(str(error)))
    if isinstance(error, ModelCallError):
        return 502, "the model failed; try again in a moment", None
    return 503, "the server cannot do this as it is installed", None


def _wire(event: str, data: str) -> str:
    return f"event: {event}\ndata: {data}\n\n"
