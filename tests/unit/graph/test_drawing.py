"""The graph drawn in the README is the graph."""

from __future__ import annotations

from pathlib import Path

from promptailor.graph.build import build_rank_graph
from promptailor.graph.resources import Resources

README = Path(__file__).parents[3] / "README.md"


def test_the_readme_draws_the_graph_that_is_compiled(resources: Resources) -> None:
    drawn = build_rank_graph(resources).get_graph().draw_mermaid()
    body = drawn.split("graph TD;", 1)[1].split("classDef", 1)[0]
    text = README.read_text("utf-8")
    missing = [line.strip() for line in body.splitlines() if line.strip() and line.strip() not in text]
    assert not missing, f"redraw the graph in README.md; it lacks {missing}"
