"""`langgraph dev` serves the rank graph; a client runs it, streams it and sees every node."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

from promptailor.graph.build import AGENT_NODES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

REQUEST: dict[str, Any] = {
    "user_id": "u1",
    "domain": "movies",
    "history": [{"item_id": "1", "title": "Alien"}],
    "candidates": [{"item_id": "2", "title": "Aliens"}, {"item_id": "3", "title": "Heidi"}],
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncLangGraphClient]:
    """A development server on a free port, with the planted model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("dev") / "server.log"
    config = tmp_path_factory.mktemp("config") / "langgraph.json"
    served = json.loads((ROOT / "langgraph.json").read_text())
    config.write_text(json.dumps(served | {"dependencies": [str(ROOT)], "env": {}}))
    environment = os.environ | {
        "PROMPTAILOR_MODEL": "planted:1",
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "1",
    }
    command = [str(Path(sys.executable).with_name("langgraph")), "dev", "--no-browser", "--no-reload"]
    command += ["--port", str(port), "--config", str(config)]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=config.parent) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_up(url, server, log)
            yield get_sync_client(url=url)
        finally:
            server.terminate()
            server.wait(timeout=20)


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/ok", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"langgraph dev did not come up:\n{log.read_text()[-3000:]}")


def test_a_client_runs_the_graph(client: SyncLangGraphClient) -> None:
    answer = client.runs.wait(None, "rank", input=REQUEST)
    assert isinstance(answer, dict)
    assert sorted(item["item_id"] for item in answer["items"]) == ["2", "3"]
    assert (answer["policy"], answer["llm_calls"], answer["model"]) == ("manual", 1, "planted:1")


def test_a_client_streams_the_graph_and_sees_every_node(client: SyncLangGraphClient) -> None:
    seen: set[str] = set()
    for part in client.runs.stream(None, "rank", input=REQUEST, stream_mode="updates"):
        if part.event == "updates":
            seen |= set(part.data)
    assert seen == {"receive", "select_policy", "choose", "assemble", "recommend", "parse", "fuse", "explain"}
    drawn = {node["id"] for node in client.assistants.get_graph("rank")["nodes"]}
    assert seen | {"observe", "refine"} | {AGENT_NODES[p] for p in AGENT_NODES if p != "user_profile"} <= drawn


def test_studio_gets_a_form_for_the_input_and_the_settings(client: SyncLangGraphClient) -> None:
    assistant = client.assistants.search(graph_id="rank")[0]
    schemas = client.assistants.get_schemas(assistant["assistant_id"])
    request, settings = schemas["input_schema"], schemas["context_schema"]
    assert request is not None
    assert settings is not None
    assert {"user_id", "history", "candidates", "domain"} <= set(request["properties"])
    assert "relevant_item_ids" not in request["properties"]
    assert {"policy", "n_steps", "fusion", "seed"} <= set(settings["properties"])


def test_an_assistants_settings_reach_the_run(client: SyncLangGraphClient) -> None:
    assistant = client.assistants.create("rank", context={"n_steps": 2, "fusion": "rrf"})
    answer = client.runs.wait(None, assistant["assistant_id"], input=REQUEST)
    assert isinstance(answer, dict)
    assert answer["llm_calls"] == 2
