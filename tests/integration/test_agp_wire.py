"""AGP end to end over HTTP: what a server is really sent, and the same result as in process."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from promptailor.app.backends.planted_profiles import ProfileChat
from promptailor.app.job import AgpConfig, TrainConfig
from promptailor.app.model_server import model_app
from promptailor.app.training import run_training_job
from promptailor.evals.planted_profiles import ProfileWorld
from promptailor.policies.lineage import read_lineage

pytestmark = pytest.mark.slow

NAME = "planted:agp"


class RecordingServer:
    """A model behind the protocol of OpenAI's chat completions, which keeps the bodies of all requests."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        app = model_app(ProfileChat(world=ProfileWorld("agp")), NAME)

        @app.middleware("http")
        async def record(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            self.bodies.append((await request.body()).decode())
            return await call_next(request)

        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)

    def __enter__(self) -> RecordingServer:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def prompts(self) -> list[str]:
        """Return what the model was really asked, in the order it came."""
        return [json.loads(body)["messages"][-1]["content"] for body in self.bodies]


@pytest.fixture(scope="module")
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as running:
        yield running


def config(model: str) -> TrainConfig:
    agp = AgpConfig(batch=5, patience=2, accept="paper")
    return TrainConfig(policy="agp", dataset="planted", model=model, users=10, calls=600, agp=agp)


def test_the_improved_instruction_reaches_the_model_and_the_run_equals_one_in_process(
    server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    run_training_job(config(f"openai:{NAME}?base_url={server.url}"), tmp_path / "wire", resume=False)
    run_training_job(config(NAME), tmp_path / "here", resume=False)
    lineage = read_lineage(tmp_path / "wire")
    assert lineage == read_lineage(tmp_path / "here")
    improved = lineage.instruction.format(interest="taste")
    assert lineage.n_accepted > 0
    prompts = server.prompts()
    profiles = [text for text in prompts if "<history>" in text and "<candidates>" not in text]
    assert any(text.endswith(f"</history>\n{improved}") for text in profiles)
    named = improved.rpartition("Name the ")[2].split()[0]
    assert any(f"{named}: " in text for text in prompts if "<candidates>" in text), "profiles by it are ranked by"
    assert any("it has to rise by" in text for text in prompts), "the critic is told positions"
