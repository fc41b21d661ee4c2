"""The results page of a suite: every exhibit with the paper's figures beside ours, as one HTML file and as Markdown.

A page is a pure function of the run folders that its exhibits name: made twice from the same folders it is the same
bytes, and no number on it comes from anywhere else.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from promptailor.evals.exhibits import Exhibit
from promptailor.evals.records import write_text
from promptailor.evals.report import read_report
from promptailor.prompts.domain import Model


class DatasetSize(Model):
    """A row of the paper's Table 1."""

    name: str
    n_users: int
    n_items: int
    n_interactions: int


class Page(Model):
    """What a results page is about; the numbers are in the folders that the exhibits name."""

    title: str
    about: str = ""
    """One paragraph on top."""
    exhibits: tuple[Exhibit, ...] = Field(min_length=1)
    datasets: tuple[DatasetSize, ...] = ()
    """Sizes of the data sets, for Table 1; empty leaves the table out."""
    command: str | None = None
    """The command that makes the whole page."""
    commit: str | None = None
    seconds: float | None = None
    """What the whole suite took, as far as it was measured."""


def write_page(folder: Path, page: Page) -> None:
    """Write `results.html` and `results.md` into `folder`, which is made where it is missing.

    Raises:
        InputError: a folder that an exhibit names holds no run, or a damaged one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {page.title}", "", page.about]
    for exhibit in page.exhibits:
        lines += ["", f"## {exhibit.title}", ""]
        for row in exhibit.rows:
            for dataset, runs in row.runs.items():
                for run in runs:
                    found = read_report(run.folder).methods[run.method].measures[exhibit.measures[0]]
                    lines.append(f"* {row.label}, {dataset}: {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]")
    write_text(folder / "results.md", "\n".join(lines) + "\n")
