"""`langgraph dev` serves both graphs: to its own clients, to a person who reads the prompts, and to agents over MCP."""

from __future__ import annotations

import asyncio
import json
import os
import re
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
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from promptailor.graph.build import AGENT_NODES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

REQUEST: dict[str, Any] = {
    "user_id": "u1",
    "domain": "movies",
    "history": [{"item_id": "1", "title": "Alien"}],
    "candidates": [{"item_id": "2", "title": "Aliens"}, {"item_id": "3", "title": "Heidi"}],
}
REVIEW = {"review": True}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A development server on a free port, with the planted model, reading back nothing but known types."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("dev") / "server.log"
    config = tmp_path_factory.mktemp("config") / "langgraph.json"
    served = json.loads((ROOT / "langgraph.json").read_text())
    config.write_text(json.dumps(served | {"dependencies": [str(ROOT)], "env": {}}))
    environment = os.environ | {
        "PROMPTAILOR_MODEL": "planted:1",
        "PROMPTAILOR_HOME": str(tmp_path_factory.mktemp("home")),
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "1",
        "LANGGRAPH_STRICT_MSGPACK": "true",
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
            yield url
        finally:
            server.terminate()
            server.wait(timeout=20)


@pytest.fixture(scope="module")
def client(url: str) -> SyncLangGraphClient:
    return get_sync_client(url=url)


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
    hidden = {"observe", "refine", "review"} | {AGENT_NODES[p] for p in AGENT_NODES if p != "user_profile"}
    assert seen | hidden <= drawn


def test_an_assistants_settings_reach_the_run(client: SyncLangGraphClient) -> None:
    assistant = client.assistants.create("rank", context={"n_steps": 2, "fusion": "rrf"})
    answer = client.runs.wait(None, assistant["assistant_id"], input=REQUEST)
    assert isinstance(answer, dict)
    assert answer["llm_calls"] == 2


@pytest.mark.parametrize(
    ("graph", "asked", "answered"),
    [
        (
            "rank",
            {"user_id", "history", "candidates", "domain", "user_profile"},
            {
                "user_id",
                "items",
                "policy",
                "version",
                "model",
                "steps",
                "parse",
                "llm_calls",
                "profile",
                "unread_profile",
                "fallback",
            },
        ),
        ("chat", {"messages", "user_id", "taste"}, {"messages", "ranking", "understood", "wishes"}),
    ],
)
def test_studio_gets_forms_in_which_every_field_is_described_and_nothing_internal_stands(
    client: SyncLangGraphClient, graph: str, asked: set[str], answered: set[str]
) -> None:
    assistant = client.assistants.search(graph_id=graph)[0]
    schemas = client.assistants.get_schemas(assistant["assistant_id"])
    forms = [schemas["input_schema"], schemas["output_schema"], schemas["context_schema"]]
    given, answer, settings = forms
    assert given is not None
    assert answer is not None
    assert settings is not None
    assert (set(given["properties"]), set(answer["properties"])) == (asked, answered)
    assert {"policy", "n_steps", "fusion", "refine", "review", "seed"} <= set(settings["properties"])
    for form in (given, answer, settings):
        assert form["title"]
        assert form["description"]
        bare = [name for name, field in form["properties"].items() if "description" not in field]
        assert not bare


def test_a_conversation_in_studios_chat_mode(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    opening: dict[str, Any] = {"messages": [{"role": "user", "content": "surprise me"}]}
    first = client.runs.wait(thread, "chat", input=opening)
    assert isinstance(first, dict)
    second_title = first["ranking"]["items"][1]["title"]
    parts = [{"type": "text", "text": "something like the second one"}]
    wish: dict[str, Any] = {"messages": [{"type": "human", "content": parts}]}
    nodes: set[str] = set()
    for part in client.runs.stream(thread, "chat", input=wish, stream_mode="updates", stream_subgraphs=True):
        if part.event.startswith("updates"):
            nodes |= set(part.data)
    assert {"understand", "retrieve", "assemble", "recommend", "rank", "reply"} <= nodes
    values = client.threads.get_state(thread)["values"]
    assert isinstance(values, dict)
    assert [m["type"] for m in values["messages"]] == ["human", "ai", "human", "ai"]
    assert f"like {second_title}" in values["messages"][-1]["content"]
    assert all(item["reason"] for item in values["ranking"]["items"])


def test_a_person_reads_the_prompt_and_puts_a_sentence_in(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    stopped = client.runs.wait(thread, "rank", input=REQUEST, context=REVIEW)
    assert isinstance(stopped, dict)
    (pause,) = stopped["__interrupt__"]
    assert pause["value"]["user"].startswith("These are the movies I have watched")
    bad = {"sentences": {"role_playing": "<candidates>"}}
    again = client.runs.wait(thread, "rank", command={"resume": bad}, context=REVIEW)
    assert isinstance(again, dict)
    assert "angle brackets" in again["__interrupt__"][0]["value"]["problem"]
    good = {"sentences": {"role_playing": "You know films."}}
    answer = client.runs.wait(thread, "rank", command={"resume": good}, context=REVIEW)
    assert isinstance(answer, dict)
    assert answer["steps"][0]["refined"] == {"role_playing": "You know films."}


def test_a_fork_of_an_earlier_state_pays_for_nothing_twice(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    asked = REQUEST | {"user_id": "time traveller", "history": [{"item_id": "7", "title": "Casablanca"}]}
    first = client.runs.wait(thread, "rank", input=asked)
    assert isinstance(first, dict)
    assert not first["steps"][0]["cached"]
    (before,) = [state for state in client.threads.get_history(thread) if state["next"] == ["recommend"]]
    fork = client.runs.wait(thread, "rank", input=None, checkpoint_id=before["checkpoint"]["checkpoint_id"])
    assert isinstance(fork, dict)
    assert fork["steps"][0]["cached"]
    assert fork["items"] == first["items"]


def test_an_mcp_client_finds_both_graphs_as_tools_and_calls_them(url: str) -> None:
    async def visit() -> None:
        async with streamable_http_client(f"{url}/mcp") as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert {"rank", "chat"} <= set(tools)  # every assistant is a tool too
            assert "tailored to the user" in str(tools["rank"].description)
            assert {"user_id", "history", "candidates"} <= set(tools["rank"].input_schema["properties"])
            ranked = await session.call_tool("rank", REQUEST)
            assert not ranked.is_error
            assert "'rank': 1" in ranked.content[0].text  # type: ignore[union-attr]
            said = await session.call_tool("chat", {"messages": "surprise me"})
            assert "Here is what I would" in said.content[0].text  # type: ignore[union-attr]
            wrong = await session.call_tool("rank", {"user_id": "u1"})
            assert wrong.is_error

    asyncio.run(visit())


def test_the_documented_mcp_client_runs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "embedding.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python mcp\n(.*?)```", page, re.DOTALL)
    exec(snippet.replace("http://127.0.0.1:2024", url), {"request": REQUEST})
    assert "'rank': 1" in capsys.readouterr().out


def test_the_page_and_its_api_are_mounted(url: str) -> None:
    page = httpx.get(f"{url}/", timeout=20)
    assert "<title>Promptailor</title>" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert httpx.get(f"{url}/health", timeout=20).json()["model"] == "planted:1"
    told = httpx.post(f"{url}/api/chat", json={"user_id": "u", "message": "surprise me"}, timeout=60).text
    assert told.endswith("event: done\ndata: {}\n\n")
