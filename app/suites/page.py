"""`promptailor report`: the exhibits of a suite, from the folders that its runs left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult

from promptailor.app.commit import current_commit
from promptailor.app.suites.ledger import LEDGER, Entry, Ledger, read_ledger
from promptailor.app.suites.runner import REPORT
from promptailor.app.suites.suite import ExhibitSpec, Group, Suite, SuiteRow, Value
from promptailor.evals.exhibits import Exhibit, Row, RunMethod
from promptailor.evals.page import Page, write_page
from promptailor.evals.render import write_report
from promptailor.evals.report import read_report
from promptailor.evals.sheets import read_sheet
from promptailor.prompts.errors import InputError

TABLES = "tables"
"""Folder of the runs for what other commands measured: `bench --scaling --json > RUNS/tables/scaling.json`."""


class PageSummary(BaseModel):
    """What a page was made of."""

    folder: Path
    exhibits: int
    empty: tuple[str, ...]
    """Exhibits that no run has filled yet."""
    datasets: tuple[str, ...]
    runs: int
    """Evaluations that the page reads."""
    seconds: float
    """What all runs took."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in a few lines."""
        if self.empty:
            yield f"no run yet for {', '.join(self.empty)}"
        yield f"{self.exhibits} exhibits from {self.runs} evaluations on {', '.join(self.datasets)}"
        yield f"page: {self.folder / 'results.html'}"


def write_suite_page(suite: Suite, runs: Path, out: Path) -> PageSummary:
    """Write a suite's results page from the folders that `ablate` left.

    Raises:
        InputError: there are no runs of this suite.
    """
    ledgers = read_ledgers(suite, runs)
    exhibits = [make_exhibit(suite, group, spec, runs, ledgers) for group in suite.groups for spec in group.exhibits]
    filled = [exhibit for exhibit in exhibits if any(row.runs for row in exhibit.rows)]
    if not filled:
        raise InputError(f"--runs {runs}: no finished evaluation of {suite.name}; go on with `promptailor ablate`")
    seconds = sum(ledger.seconds for ledger in ledgers.values())
    write_page(
        out,
        Page(
            title=f"Results of the suite {suite.name}",
            about=suite.about,
            exhibits=tuple(exhibits),
            datasets=tuple(ledger.size for ledger in ledgers.values()),
            command=f"promptailor report --suite {suite.name} --runs {runs} --out {out}",
            commit=current_commit(),
            sheets=tuple(map(read_sheet, sorted((runs / TABLES).glob("*.json")))),
            seconds=seconds,
            training_seconds={
                str(runs / name / made): entry.seconds
                for name, ledger in ledgers.items()
                for made, entry in ledger.entries.items()
                if entry.group is None
            },
        ),
    )
    read = {run.folder for e in exhibits for row in e.rows for found in row.runs.values() for run in found}
    return PageSummary(
        folder=out,
        exhibits=len(filled),
        empty=tuple(exhibit.id for exhibit in exhibits if exhibit not in filled),
        datasets=tuple(ledgers),
        runs=len(read),
        seconds=seconds,
    )


def rewrite_report(folder: Path) -> Path:
    """Write an evaluation's report again, from its `report.json`, and return the page's path.

    Raises:
        InputError: the folder holds no evaluation.
    """
    write_report(folder, read_report(folder))
    return folder / "report.html"


def read_ledgers(suite: Suite, runs: Path) -> dict[str, Ledger]:
    """Read what a suite has done, by data set, in the order of the tables' columns.

    Raises:
        InputError: nothing, or it was another suite.
    """
    found = [read_ledger(path.parent) for path in sorted(runs.glob(f"*/{LEDGER}"))]
    ledgers = {ledger.dataset: ledger for ledger in found if ledger and ledger.suite == suite.name}
    if not ledgers:
        raise InputError(f"--runs {runs}: no runs of the suite {suite.name}; make them with `promptailor ablate`")
    order = [name for name in suite.datasets if name in ledgers]
    return {name: ledgers[name] for name in (*order, *(name for name in ledgers if name not in order))}


def make_exhibit(suite: Suite, group: Group, spec: ExhibitSpec, runs: Path, ledgers: Mapping[str, Ledger]) -> Exhibit:
    """Say which run folders an exhibit is read from; what is not on disk is not in it."""
    rows = [row for row in group.rows if not spec.rows or row.label in spec.rows]
    if spec.rows:
        rows.sort(key=lambda row: spec.rows.index(row.label))
    datasets = [name for name in ledgers if not group.datasets or name in group.datasets]
    shown = [
        _row(group, row, point, runs, {name: ledgers[name] for name in datasets}, suite.name)
        for row in rows
        for point in group.points
        if row in group.rows_at(point)
    ]
    return Exhibit(
        id=spec.id,
        title=spec.title,
        kind=spec.kind,
        measures=spec.measures,
        x_label=group.sweep.name if group.sweep else "",
        datasets=tuple(datasets),
        rows=tuple(shown),
        compare=tuple(
            (_label(group, a, point), _label(group, b, point))
            for point in group.points
            for a, b in spec.compare
            if {a, b} <= {row.label for row in group.rows_at(point)}
        ),
        differs=spec.differs,
        commands=tuple(
            dict.fromkeys(e.command for name in datasets for e in _entries(group, ledgers[name]) if e.command)
        ),
    )


def _row(
    group: Group, row: SuiteRow, point: Value | None, runs: Path, ledgers: Mapping[str, Ledger], suite: str
) -> Row:
    return Row(
        label=_label(group, row.label, point),
        runs={name: found for name, ledger in ledgers.items() if (found := _runs(group, row, point, runs, ledger))},
        series=row.label if group.sweep else None,
        x=point if group.sweep else None,
        commands={
            name: f"promptailor ablate --suite {suite} --dataset {name}"
            f"{f' --model {ledger.model}' if ledger.model else ''} --only {group.id} --out {runs}"
            for name, ledger in ledgers.items()
        },
    )


def _label(group: Group, label: str, point: Value | None) -> str:
    if group.models:
        return f"{label} ({group.models[str(point)]})"
    return f"{label}, {group.sweep.name} {point}" if group.sweep else label


def _runs(group: Group, row: SuiteRow, point: Value | None, runs: Path, ledger: Ledger) -> tuple[RunMethod, ...]:
    found = []
    folder = runs / ledger.dataset
    for name, entry in sorted(ledger.entries.items(), key=lambda pair: pair[1].seed):
        cost = entry.rows.get(row.label)
        if entry.group == group.id and entry.point == point and cost and (folder / name / REPORT).is_file():
            training = folder / cost.training if cost.training else None
            extension = folder / cost.extension if cost.extension else None
            found.append(RunMethod(folder=folder / name, method=cost.method, training=training, extension=extension))
    return tuple(found)


def _entries(group: Group, ledger: Ledger) -> Sequence[Entry]:
    return [entry for entry in ledger.entries.values() if entry.group == group.id]
