"""An application over a planted world, in this process: models, databases and routes as served."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

pytest.importorskip("sqlalchemy", reason="the extra `serve` is not installed")

from fastapi import FastAPI
from sqlalchemy import create_engine, text

from promptailor.app.server.application import create_app
from promptailor.app.server.guard import Limits
from promptailor.app.server.opening import Loaded, ServerConfig, load_service, opened
from promptailor.app.settings import Settings

T = TypeVar("T")
POSTGRES = "PROMPTAILOR_TEST_POSTGRES"
REQUIRE = "PROMPTAILOR_REQUIRE_SERVICES"
Visit = Callable[[httpx.AsyncClient], Awaitable[T]]


class Site:
    """Runs visits to an application; each visit sees a whole start and stop of it."""

    def __init__(self, loaded: Loaded, limits: Limits | None = None) -> None:
        self.loaded = loaded
        self.limits = limits or Limits()

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def app(self) -> FastAPI:
        return create_app(opened(self.loaded), self.limits)

    def visit(self, visit: Visit[T]) -> T:
        async def run() -> T:
            async with self.open() as client:
                return await visit(client)

        return asyncio.run(run())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        app = self.app()
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
                yield client

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.visit(lambda client: client.request(method, path, json=body, **options))


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """Read a stream of server-sent events."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *blocks, end = response.text.split("\n\n")
    assert end == ""
    pairs = [block.split("\n") for block in blocks]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    settings = Settings(PROMPTAILOR_HOME=tmp_path_factory.mktemp("home"))
    return load_service(ServerConfig(model="planted:1", policies="manual"), settings)


@pytest.fixture
def site(loaded: Loaded) -> Site:
    return Site(loaded)


def postgres_url() -> str:
    url = os.environ.get(POSTGRES)
    if not url and os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, but {POSTGRES} names no database")
    if not url:
        pytest.skip(f"{POSTGRES} names no database")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'feedback.sqlite'}"
        return
    server = postgres_url().replace("postgresql://", "postgresql+psycopg://")
    name = f"feedback_{os.getpid()}_{tmp_path.name[-12:]}".lower().replace("-", "_")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    yield f"{postgres_url().rsplit('/', 1)[0]}/{name}"
    with engine.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    engine.dispose()
