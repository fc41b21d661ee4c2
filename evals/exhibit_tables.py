"""The tables of an exhibit: the paper's shape with our intervals, what each row cost, which command made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from promptailor.evals.exhibit_runs import COSTS, MeasuredFigure, Runs, datasets_of, ran
from promptailor.evals.exhibits import Exhibit, Row, RunMethod
from promptailor.evals.metrics import PRIMARY
from promptailor.evals.page_view import Cell, Finding, Line, Table
from promptailor.evals.published_figures import Printed, Published
from promptailor.evals.statistics import Comparison, Estimate, compare
from promptailor.prompts.patterns import Catalogue

NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What every exhibit is made from."""

    runs: Runs
    published: Published
    catalogue: Catalogue
    training_seconds: Mapping[str, float] = field(default_factory=dict)
    """By training folder, as the suite measured it."""


def shown(measure: str, value: float) -> str:
    """Return a figure as it is printed."""
    return f"{value:.1f}" if measure == "calls" else f"{value:.3f}"


def _printed(found: Printed | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.sd is None else f"{found.mean:.2f} ± {found.sd:.2f}"


def cell_of(figure: MeasuredFigure, measure: str, printed: Printed | None = None, *, best: bool = False) -> Cell:
    """Return a figure with what is known of its spread: over users, and over seeds where there are several."""
    return Cell(
        text=shown(measure, figure.mean),
        small=f"[{figure.interval.low:.3f}, {figure.interval.high:.3f}]" if figure.interval else "",
        seeds="" if figure.sd is None else f"± {shown(measure, figure.sd)}, {len(figure.means)} seeds",
        printed=_printed(printed),
        best=best,
    )


def estimate_cell(value: Estimate) -> Cell:
    """Return a mean over the users of one run."""
    return cell_of(MeasuredFigure(means=(value.mean,), interval=value), PRIMARY)


def value_table(exhibit: Exhibit, sources: Sources, *, folded: bool = False) -> tuple[Table, ...]:
    """Lay out rows x (data set x measure), as the paper does; without data sets there is no table."""
    datasets = datasets_of(exhibit)
    if not datasets:
        return ()
    columns = [(dataset, measure) for dataset in datasets for measure in exhibit.measures]
    cells = [_column(exhibit, dataset, measure, sources) for dataset, measure in columns]
    lines = [
        Line(label=label_of(row), upper_bound=row.upper_bound, cells=of_row)
        for row, of_row in zip(exhibit.rows, zip(*cells, strict=True), strict=True)
    ]
    table = Table(
        caption=("The numbers: mean" if folded else "Mean")
        + " over users and its 95 % interval; ± is the standard deviation over seeds, where there are several"
        + ("; then what the paper prints" if any(cell.printed for line in lines for cell in line.cells) else ""),
        corner="",
        head=tuple(measure_name(measure) for _, measure in columns),
        groups=tuple((dataset, len(exhibit.measures)) for dataset in datasets),
        lines=tuple(lines),
        folded=folded,
    )
    return (table,)


def _column(exhibit: Exhibit, dataset: str, measure: str, sources: Sources) -> list[Cell]:
    figures = [sources.runs.figure(tuple(row.runs.get(dataset, ())), measure) for row in exhibit.rows]
    best = _best(exhibit.rows, figures, measure)
    cells = []
    for place, (row, figure) in enumerate(zip(exhibit.rows, figures, strict=True)):
        printed = sources.published.find(exhibit.id, dataset, row.label, measure)
        if figure is None:
            why = "not measured" if row.runs.get(dataset) else NOT_RUN
            cells.append(Cell(text=why, printed=_printed(printed), missing=True))
        else:
            cells.append(cell_of(figure, measure, printed, best=place in best))
    return cells


def label_of(row: Row) -> str:
    """Name a row; a bound is called one."""
    return f"{row.label} (upper bound)" if row.upper_bound else row.label


def measure_name(measure: str) -> str:
    """Return what a column is called."""
    return {"calls": "calls per user", "seconds": "seconds per user"}.get(measure, measure.upper())


def _best(rows: Sequence[Row], figures: Sequence[MeasuredFigure | None], measure: str) -> set[int]:
    """Return the rows with the best figure as shown; a bound is no result, and a single figure is not the best."""
    if measure in COSTS:  # the cheapest is no winner
        return set()
    known = {
        place: float(shown(measure, figure.mean))
        for place, (row, figure) in enumerate(zip(rows, figures, strict=True))
        if figure is not None and not row.upper_bound
    }
    return {place for place, value in known.items() if value == max(known.values())} if len(known) > 1 else set()


def missing_table(exhibit: Exhibit) -> tuple[Table, ...]:
    """List what was not run, and the command that would make it, one line per command."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for dataset in datasets_of(exhibit):
        for row in exhibit.rows:
            if not row.runs.get(dataset):
                command = row.commands.get(dataset) or " && ".join(exhibit.commands)
                lacking.setdefault((dataset, command), []).append(label_of(row))
    if not lacking:
        return ()
    lines = [
        Line(label=dataset, cells=(Cell(text="; ".join(labels)), Cell(text=command, code=True)))
        for (dataset, command), labels in lacking.items()
    ]
    n_lacking = sum(map(len, lacking.values()))
    caption = f"Not run: {n_lacking} of {len(exhibit.rows) * len(datasets_of(exhibit))}, and what would make them"
    return (Table(caption=caption, corner="data set", head=("rows", "command"), lines=tuple(lines), folded=True),)


def cost_table(exhibit: Exhibit, sources: Sources) -> tuple[Table, ...]:
    """List what every row cost: users, calls, time, and what was spent on learning it."""
    lines = []
    for dataset in datasets_of(exhibit):
        for row, runs in ran(exhibit, dataset):
            results = [sources.runs.result(run) for run in runs]
            manifests = [manifest for run in runs if (manifest := sources.runs.manifest(run))]
            trained = [
                sources.training_seconds[str(run.training)]
                for run in runs
                if str(run.training) in sources.training_seconds
            ]
            cells = (
                dataset,
                str(len(runs)),
                f"{sum(r.n_users for r in results) / len(results):.0f}",
                f"{sum(r.llm_calls for r in results) / sum(r.n_users for r in results):.1f}",
                f"{sum(r.seconds for r in results) / len(results):.1f}",
                f"{sum(m.calls for m in manifests) / len(manifests):,.0f}" if manifests else "",
                f"{sum(trained) / len(trained):.0f}" if trained else "",
                f"{sum(r.invalid_rate for r in results) / len(results):.1%}",
            )
            lines.append(Line(label=label_of(row), cells=tuple(Cell(text=text) for text in cells)))
    if not lines:
        return ()
    return (
        Table(
            caption="What each row cost; the mean over its seeds",
            corner="row",
            head=(
                "data set",
                "seeds",
                "users",
                "calls per user",
                "seconds",
                "calls to learn",
                "seconds to learn",
                "repaired answers",
            ),
            lines=tuple(lines),
            folded=True,
        ),
    )


def made_by(exhibit: Exhibit, runs: Runs) -> tuple[Table, ...]:
    """Say for every run folder which command made it, at which commit."""
    named: dict[str, tuple[str, str, str, str]] = {}
    for run in all_runs(exhibit):
        about = runs[run].report.environment
        named[runs.name(run)] = (about.model or "none", str(about.seed), about.commit or "", about.command or "")
    if not named:
        return ()
    return (
        Table(
            caption="The runs behind it: command and commit",
            corner="run",
            head=("model", "seed", "commit", "command"),
            lines=tuple(
                Line(label=folder, cells=(*(Cell(text=text) for text in facts), Cell(text=command, code=True)))
                for folder, (*facts, command) in named.items()
            ),
            folded=True,
        ),
    )


def all_runs(exhibit: Exhibit) -> Iterator[RunMethod]:
    """Yield every run of every row."""
    for row in exhibit.rows:
        for runs in row.runs.values():
            yield from runs


def findings(exhibit: Exhibit, sources: Sources) -> Iterator[Finding]:
    """Make the exhibit's planned comparisons, on the users that both rows ranked for, averaged over seeds.

    Holm's correction is over the exhibit's comparisons of one data set.
    """
    rows = {row.label: row for row in exhibit.rows}
    for dataset in datasets_of(exhibit):
        pairs = [
            pair for pair in exhibit.compare if all(label in rows and rows[label].runs.get(dataset) for label in pair)
        ]
        labels = dict.fromkeys(label for pair in pairs for label in pair)
        scores = {label: _mean_per_user(rows[label].runs[dataset], sources.runs) for label in labels}
        users = [user for user in next(iter(scores.values()), ()) if all(user in of for of in scores.values())]
        if not users:
            continue
        arrays = {label: np.array([of[user] for user in users]) for label, of in scores.items()}
        n_seeds = max(len(rows[label].runs[dataset]) for label in labels)
        for comparison in compare(arrays, pairs, key=(exhibit.id, dataset, "planned"), planned=True):
            yield Finding(
                exhibit=exhibit.id,
                dataset=dataset,
                comparison=comparison,
                n_users=len(users),
                n_seeds=n_seeds,
                printed=_printed_difference(exhibit, dataset, comparison, sources.published),
            )


def _mean_per_user(runs: Sequence[RunMethod], source: Runs) -> dict[str, float]:
    return {user: float(np.mean(scores)) for user, scores in source.per_user(runs, PRIMARY).items()}


def _printed_difference(exhibit: Exhibit, dataset: str, c: Comparison, published: Published) -> float | None:
    a, b = (published.find(exhibit.id, dataset, label, PRIMARY) for label in (c.a, c.b))
    return None if a is None or b is None else a.mean - b.mean


def findings_table(found: Sequence[Finding], *, caption: str, name_exhibit: bool = False) -> Table:
    """Lay out comparisons, one per line."""
    lines = [
        Line(
            label=f"{f.comparison.a} − {f.comparison.b}",
            cells=(
                *((Cell(text=f.exhibit),) if name_exhibit else ()),
                Cell(text=f.dataset),
                Cell(text=f.outcome),
                Cell(
                    text=f"{f.comparison.difference:+.3f}",
                    small=f"[{f.comparison.low:+.3f}, {f.comparison.high:+.3f}]",
                    best=f.outcome == "gain",
                ),
                Cell(text="" if f.printed is None else f"{f.printed:+.2f}"),
                Cell(text=f"{f.comparison.p_holm:.2g}"),
                Cell(text="" if f.comparison.mde is None else f"{f.comparison.mde:.3f}"),
                Cell(text=str(f.n_users), seeds=f"{f.n_seeds} seeds" if f.n_seeds > 1 else ""),
            ),
        )
        for f in found
    ]
    head = (
        *(("exhibit",) if name_exhibit else ()),
        "data set",
        "finding",
        f"difference in {PRIMARY.upper()}",
        "paper",
        "p (Holm)",
        "smallest detectable",
        "users",
    )
    return Table(caption=caption, corner="comparison", head=head, lines=tuple(lines))
