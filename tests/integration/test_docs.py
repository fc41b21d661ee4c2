"""The documentation's snippets run as they stand, and its pictures are the graphs that are compiled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from promptailor.app.chat import chat_graph
from promptailor.app.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def test_the_snippets_about_embedding_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMPTAILOR_MODEL", "planted:1")
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / "embedding.md").read_text("utf-8"), re.DOTALL)
    assert len(snippets) == 8
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, names)
    printed = capsys.readouterr().out
    for expected in ("item_id 3", "Here is what I would choose next", "because", "role_playing", "True\n", "\n2\n"):
        assert expected in printed


def test_the_graph_in_the_page_about_studio_is_the_one_that_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTAILOR_MODEL", "planted:1")
    drawn = chat_graph(Settings(), warm=False).get_graph(xray=1).draw_mermaid()
    body = drawn.split("graph TD;", 1)[1].split("classDef", 1)[0]
    text = (DOCS / "studio.md").read_text("utf-8")
    missing = [line.strip() for line in body.splitlines() if line.strip() and line.strip() not in text]
    assert not missing, f"redraw the graph in docs/studio.md; it lacks {missing}"
