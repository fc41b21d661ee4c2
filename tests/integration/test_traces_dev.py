"""Who sets LANGSMITH_TRACING=true for `langgraph dev` sends no user id either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph_api", reason="the extra `studio` is not installed")
pytest.importorskip("opentelemetry.proto", reason="the extra `tracing` is not installed")

from langgraph_sdk import get_sync_client

from promptailor.graph.tracing import STEP_TAG
from tests.integration.capture import capture
from tests.integration.servers import free_port, running, script

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RAW = "raw-id-of-ann"
KEY = "correct-horse-battery-staple"
REQUEST: dict[str, Any] = {
    "user_id": RAW,
    "domain": "movies",
    "history": [{"item_id": "1", "title": "Alien"}],
    "candidates": [{"item_id": "2", "title": "Aliens"}, {"item_id": "3", "title": f"Heidi {KEY}"}],
}


def test_a_development_server_sends_the_story_and_no_user_id(tmp_path: Path) -> None:
    served = json.loads((ROOT / "langgraph.json").read_text())
    config = tmp_path / "langgraph.json"
    graphs = {"rank": served["graphs"]["rank"]}
    config.write_text(json.dumps({"dependencies": [str(ROOT)], "graphs": graphs, "env": {}}))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [script("langgraph"), "dev", "--no-browser", "--no-reload", "--port", str(port), "--config", str(config)]
    with capture() as captured:
        environment = {
            "PROMPTAILOR_MODEL": "planted:1",
            "PROMPTAILOR_HOME": str(tmp_path / "home"),
            "OPENAI_API_KEY": KEY,
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": captured.url,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{captured.url}/v1/traces",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGGRAPH_NO_VERSION_CHECK": "1",
        }
        with running(command, f"{url}/ok", tmp_path / "server.log", environment):
            client = get_sync_client(url=url)
            assistant = client.assistants.create("rank", context={"n_steps": 2})
            answer = client.runs.wait(None, assistant["assistant_id"], input=REQUEST)
            assert isinstance(answer, dict)
            captured.wait(lambda: any(run.parent is None and run.outputs for run in captured.runs()))
            captured.wait(lambda: any(not span.parent for span in captured.spans()))
        told = [run.metadata for run in captured.runs() if STEP_TAG in run.tags]
        digests = [step["prompt_digest"] for step in answer["steps"]]
        assert [step["promptailor.prompt_digest"] for step in told] == digests
        spans = [span.attributes for span in captured.spans() if "promptailor.step" in span.attributes]
        assert [step["promptailor.prompt_digest"] for step in spans] == digests
        (root,) = [run for run in captured.runs() if run.parent is None]
        assert root.inputs["user_id"].startswith("user-")
        assert RAW.encode() not in captured.bytes()
        assert KEY.encode() not in captured.bytes()
