"""Draws docs/trace.png: the runs that a real three-step RPP+ request sends to LangSmith, as its trace tree shows them.

Run it as `python -m docs.trace_picture FOLDER`, with the folder of a trained RPP+.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.graph.tracing import STEP_TAG
from tests.integration.capture import SentRun, capture
from tests.integration.servers import script

MODEL = "embedded:ml-100k"
QUIET = {"receive", "select_policy", "fuse", "explain", "observe"}
"""Nodes whose payload is not worth a line."""
WIDTH = 160


def main() -> None:
    """Rank for one validation user, whose prompt goes on changing, while a server captures the trace; draw that."""
    policy = sys.argv[1]
    workspace = Workspace(settings=Settings(), dataset_name="ml-100k", model=MODEL)
    (case,) = workspace.cases(workspace.split.validation[12:13], 10, 0)
    with tempfile.TemporaryDirectory() as folder, capture() as captured:
        requests = Path(folder) / "requests.jsonl"
        requests.write_text(json.dumps(case.request.model_dump(mode="json")) + "\n")
        command = [script("promptailor"), "rank", "--policy", f"rpp+={policy}", "--model", MODEL, "--refiner", MODEL]
        command += ["--input", str(requests), "--output", str(Path(folder) / "answers.jsonl")]
        traced = {"LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": captured.url, "LANGSMITH_API_KEY": "none"}
        subprocess.run(command, env=os.environ | traced, check=True)
        runs = captured.runs()
    (root,) = [run for run in runs if run.parent is None]
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(grown(root, runs))
    drawn = console.export_svg(title="What LangSmith gets of one request: three steps of RPP+")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1_600, "height": 1_200})
        page.set_content(f'<div style="width: 1500px">{drawn}</div>')
        page.locator("svg").screenshot(path=Path(__file__).with_name("trace.png"), omit_background=True)
        browser.close()


def grown(run: SentRun, runs: list[SentRun]) -> Tree:
    """Return a run with those below it."""
    tree = Tree(line_of(run), guide_style="dim")
    for child in runs:
        if child.parent == run.id:
            tree.children.append(grown(child, runs))
    return tree


def line_of(run: SentRun) -> Text:
    """Return what the tree says of a run: its name, its time, and what it did."""
    line = Text(no_wrap=True, overflow="ellipsis")
    kind = run.fields["run_type"]
    style = "bold green" if STEP_TAG in run.tags else "cyan" if kind == "llm" else "bold" if not run.parent else ""
    line.append(run.name, style)
    if run.parent is None:
        line.append(f"  {', '.join(sorted(run.tags))}; user {run.outputs['user_id']}", "dim")
    elif STEP_TAG in run.tags:
        line.append(f"  {run.outputs['summary']}", "green")
    elif kind == "llm":
        text = run.outputs["generations"][0][0]["text"]
        line.append("  " + " ".join(text.split())[:100], "dim")
    elif run.name.endswith("_agent") and run.outputs.get("choices"):
        (choice,) = run.outputs["choices"].values()
        line.append(f"  {choice['sentence_id']} (p {choice['probability']:.2f})", "dim")
    elif run.name in ("assemble", "refine"):
        line.append(f"  prompt {run.outputs['prompt']['digest']}", "dim")
    elif run.name not in QUIET:
        line.append("")
    return line


if __name__ == "__main__":
    main()
