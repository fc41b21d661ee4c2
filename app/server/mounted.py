"""The application inside another server: `langgraph dev` mounts it by `http.app` in `langgraph.json`.

It loads when the server starts, beside the graphs, and is configured by the environment alone. No policy is trained
here: what PROMPTAILOR_POLICIES names first serves, or the manual prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from promptailor.app.server.application import create_app
from promptailor.app.server.metrics import Metrics
from promptailor.app.server.opening import Loaded, ServerConfig, load_service, opened
from promptailor.app.server.service import Service
from promptailor.app.settings import Settings
from promptailor.policies.manual import MANUAL


def _load() -> Loaded:
    settings = Settings()
    return load_service(ServerConfig(policies=settings.policies or MANUAL), settings)


@asynccontextmanager
async def _open(metrics: Metrics) -> AsyncIterator[Service]:
    loaded = await asyncio.to_thread(_load)
    async with opened(loaded)(metrics) as service:
        yield service


app = create_app(_open)
