"""The results page of a suite: every exhibit with the paper's figures beside ours, as one HTML file and as Markdown.

A page is a pure function of the run folders that its exhibits name: made twice from the same folders it is the same
bytes, and no figure of ours on it comes from anywhere else. The exceptions are what a suite hands over as measured: the
sizes of the data sets, wall times, and the tables of other commands.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from promptailor.evals.exhibits import Exhibit
from promptailor.evals.page_view import Cell, Finding, Line, PageView, Section, Table
from promptailor.evals.published_figures import Published, load_published
from promptailor.evals.records import write_text
from promptailor.evals.sheets import Sheet
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import MissingExtraError
from promptailor.prompts.patterns import load_catalogue


class DatasetSize(Model):
    """A row of the paper's Table 1."""

    name: str
    n_users: int
    n_items: int
    n_interactions: int


class Page(Model):
    """What a results page is about; the figures are in the folders that the exhibits name."""

    title: str
    about: str = ""
    """One paragraph on top."""
    exhibits: tuple[Exhibit, ...] = Field(min_length=1)
    sheets: tuple[Sheet, ...] = ()
    """What other commands measured; shown after the exhibits."""
    datasets: tuple[DatasetSize, ...] = ()
    """Sizes of the data sets, for Table 1; empty leaves the table out."""
    published: str = "rpp"
    """Name of the paper whose figures stand beside ours, a file of `evals/published/`."""
    catalogue: Path | None = None
    """Sentences that the runs were made with; None for those that ship with the package."""
    command: str | None = None
    """The command that makes the whole page."""
    commit: str | None = None
    seconds: float | None = None
    """What the whole suite took, where that was measured."""
    training_seconds: Mapping[str, float] = Field(default_factory=dict)
    """By training folder, as the exhibits name it."""

    @model_validator(mode="after")
    def _ids_are_anchors(self) -> Page:
        ids = [*(exhibit.id for exhibit in self.exhibits), *(sheet.id for sheet in self.sheets)]
        twice = [name for name, n in Counter(ids).items() if n > 1]
        if twice:
            raise ValueError(f"page: the id {twice[0]!r} is used twice; every exhibit and sheet needs its own")
        return self


def write_page(folder: Path, page: Page) -> None:
    """Write `results.md` and `results.html` into `folder`, which is made where it is missing.

    Raises:
        InputError: a folder that an exhibit names holds no run, or not the method; a run has another catalogue.
        MissingExtraError: what draws figures is not installed.
    """
    try:  # drawing is an extra, and slow to import
        from promptailor.evals.page_render import page_html, page_markdown  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("results.html", "baselines") from error
    shown = view_page(page)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.md", page_markdown(shown))
    write_text(folder / "results.html", page_html(shown))


def view_page(page: Page) -> PageView:
    """Read the runs and make everything that the page shows, figures not yet drawn."""
    from promptailor.evals.exhibit_runs import Runs  # noqa: PLC0415 - as above
    from promptailor.evals.exhibit_sections import section  # noqa: PLC0415
    from promptailor.evals.exhibit_tables import Sources, findings_table  # noqa: PLC0415

    published = load_published(page.published)
    runs = Runs(_base(page))
    sources = Sources(
        runs=runs,
        published=published,
        catalogue=load_catalogue(page.catalogue),
        training_seconds=page.training_seconds,
    )
    sections = [section(exhibit, sources) for exhibit in page.exhibits]
    found = [finding for made in sections for finding in made.findings]
    return PageView(
        title=page.title,
        about=page.about,
        summary=tuple(_summary(found)),
        findings=findings_table(found, caption=_CAPTION, name_exhibit=True) if found else None,
        facts=_facts(page, published, runs.seconds, len(runs.folders)),
        sections=(
            *([_sizes(page, published)] if page.datasets else []),
            *sections,
            *(_sheet(sheet) for sheet in page.sheets),
        ),
    )


_CAPTION = (
    "Planned comparisons on the same users, 95 % bootstrap intervals, paired permutation tests, Holm's correction"
    " within an exhibit and data set; the paper's column is the difference of the means that it prints"
)


def _base(page: Page) -> Path | None:
    """Return the folder that all runs lie in, so that the page does not say where that is."""
    folders = {
        run.folder for exhibit in page.exhibits for row in exhibit.rows for runs in row.runs.values() for run in runs
    }
    parents = [str(folder.parent) for folder in folders]
    try:
        return Path(os.path.commonpath(parents)) if parents else None
    except ValueError:  # some relative, some not: there is no such folder
        return None


def _summary(found: list[Finding]) -> list[str]:
    """Say what holds and what does not, in counts."""
    if not found:
        return []
    outcomes = Counter(finding.outcome for finding in found)
    lines = [
        f"Planned comparisons: {len(found)}. Gains: {outcomes['gain']}. Losses: {outcomes['loss']}."
        f" No difference shown: {outcomes['no difference shown']}."
    ]
    compared = [finding for finding in found if finding.printed is not None]
    if compared:
        held = [f for f in compared if f.printed and f.outcome == ("gain" if f.printed > 0 else "loss")]
        reversed_ = [f for f in compared if f.printed and f.outcome == ("loss" if f.printed > 0 else "gain")]
        lines.append(
            f"Of these, the paper has {len(compared)}. Same direction here: {len(held)}. Reversed: {len(reversed_)}."
            f" No difference shown here, or none printed: {len(compared) - len(held) - len(reversed_)}."
        )
    return lines


def _facts(page: Page, published: Published, evaluated: float, n_runs: int) -> dict[str, str]:
    trained = sum(page.training_seconds.values())
    shown = {
        "command": page.command,
        "commit": page.commit,
        "the paper": published.source,
        "runs": str(n_runs),
        "the whole suite": None if page.seconds is None else f"{page.seconds:,.0f} seconds",
        "evaluating": f"{evaluated:,.0f} seconds, added up over methods and runs",
        "training": f"{trained:,.0f} seconds, added up over training runs" if page.training_seconds else None,
    }
    return {name: value for name, value in shown.items() if value}


def _sizes(page: Page, published: Published) -> Section:
    lines = []
    for size in page.datasets:
        printed = published.datasets.get(size.name)
        paper = (None, None, None) if printed is None else (printed.users, printed.items, printed.interactions)
        ours = (size.n_users, size.n_items, size.n_interactions)
        cells = [
            Cell(text=f"{mine:,}", printed="" if theirs is None else f"{theirs:,}")
            for mine, theirs in zip(ours, paper, strict=True)
        ]
        lines.append(Line(label=size.name, cells=tuple(cells)))
    table = Table(
        caption="Ours, then what the paper prints", corner="data set", head=("users", "items", "interactions"),
        lines=tuple(lines),
    )  # fmt: skip
    return Section(id="table-1", title="Table 1. Statistics of data sets", tables=(table,))


def _sheet(sheet: Sheet) -> Section:
    lines = tuple(Line(label=row[0], cells=tuple(Cell(text=text) for text in row[1:])) for row in sheet.rows)
    table = Table(caption="", corner=sheet.head[0], head=sheet.head[1:], lines=lines)
    return Section(id=sheet.id, title=sheet.title, tables=(table,))
