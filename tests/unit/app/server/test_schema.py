"""The OpenAPI schema says what the routes do: requests made from it, broken ones too, are answered as it promises."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `serve` is not installed")
pytest.importorskip("schemathesis", reason="the extra `dev` is not installed")

import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from promptailor.app.server.opening import Loaded
from tests.unit.app.server.conftest import Site


@pytest.fixture(scope="module")
def url(loaded: Loaded) -> Iterator[str]:
    """The application on a port, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(Site(loaded).app(), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def api(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


OPERATIONS = (
    "POST /api/rank", "POST /api/chat", "POST /api/explain", "POST /api/feedback", "GET /api/users",
    "DELETE /api/users/{user_id}", "GET /health", "GET /metrics",
)  # fmt: skip
TOO_STRICT = [positive_data_acceptance]
"""A request may fit the schema and name an item that nobody knows."""


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, GenerationMode.POSITIVE) for name in OPERATIONS]
    + [(name, GenerationMode.NEGATIVE) for name in OPERATIONS if name.startswith("POST")],
)
def test_every_route_keeps_its_promise(api: Any, name: str, mode: GenerationMode) -> None:
    method, path = name.split()
    operation = api[path][method]

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def keeps(case: Any) -> None:
        case.call_and_validate(excluded_checks=TOO_STRICT, timeout=30)

    keeps()


def test_the_schema_explains_itself(api: Any) -> None:
    paths = api.raw_schema["paths"]
    assert {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations} == {*OPERATIONS}
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
    for name in ("RankBody", "ChatBody", "ExplainBody", "FeedbackBody"):
        body = api.raw_schema["components"]["schemas"][name]
        assert body["examples"], name
        assert body["additionalProperties"] is False, name
