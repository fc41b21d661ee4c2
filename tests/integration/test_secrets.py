"""A key goes to its server and nowhere else: not into a trace, a cache, a log, a checkpoint or a report."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.tracers import Run
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")

from promptailor.app.serving import serving_graph
from promptailor.app.settings import Settings
from promptailor.graph.state import RankInput
from promptailor.prompts.domain import Item
from tests.integration.servers import script, served_model

pytestmark = pytest.mark.slow
KEY = "correct-horse-battery-staple"
"""No pattern knows it for a key."""
TRAIN = ["train", "--policy", "rpp+", "--dataset", "planted", "--users", "20", "--calls", "260"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that answers only who sends the key."""
    folder = tmp_path_factory.mktemp("keyed")
    with served_model("planted:1", folder, "--api-key-env", "SERVER_KEY", environment={"SERVER_KEY": KEY}) as url:
        yield url


def promptailor(folder: Path, *arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OPENAI_API_KEY": key, "PROMPTAILOR_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [script("promptailor"), "--debug", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def leaks(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_no_file_and_no_output_of_a_run_holds_the_key(tmp_path: Path, server: str) -> None:
    model = f"openai:planted:1?base_url={server}"
    out = tmp_path / "run"
    trained = promptailor(tmp_path, *TRAIN, "--model", model, "--out", str(out), "--json")
    assert trained.returncode == 0, trained.stderr
    methods = f"identity,manual,rpp+={out}"
    evaluated = promptailor(
        tmp_path, "evaluate", "--dataset", "planted", "--model", model, "--methods", methods, "--users", "12",
        "--out", str(tmp_path / "evaluation"),
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    probed = promptailor(tmp_path, "doctor", "--model", model)
    assert probed.returncode == 0, probed.stderr
    assert (tmp_path / "evaluation" / "report.html").is_file()
    assert leaks(tmp_path) == []
    assert all(KEY not in done.stdout + done.stderr for done in (trained, evaluated, probed))


def test_a_wrong_key_is_refused_without_being_repeated(tmp_path: Path, server: str) -> None:
    model = f"openai:planted:1?base_url={server}"
    wrong = KEY.replace("correct", "another")
    done = promptailor(tmp_path, *TRAIN, "--model", model, "--out", str(tmp_path / "run"), key=wrong)
    assert done.returncode != 0
    assert "401" in done.stderr
    assert wrong not in done.stdout + done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and wrong.encode() in path.read_bytes()] == []


def test_no_trace_holds_the_key(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    collector = RunCollectorCallbackHandler()
    graph = serving_graph(Settings(), model=f"openai:planted:1?base_url={server}")
    items: list[Item | str] = [Item(item_id=str(n), title=f"Film {n}") for n in range(3)]
    graph.invoke(RankInput(user_id="u", history=[], candidates=items), {"callbacks": [collector]})
    (root,) = collector.traced_runs
    runs = _with_children(root)
    assert any(run.run_type == "llm" for run in runs), "the call of the model was not traced"
    assert KEY not in "".join(json.dumps(run.model_dump(exclude={"child_runs"}), default=repr) for run in runs)


def _with_children(run: Run) -> list[Run]:
    return [run, *(descendant for child in run.child_runs for descendant in _with_children(child))]
