"""The tables of an exhibit: the paper's shape with our intervals, what each row cost, which command made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from promptailor.evals.exhibit_runs import Runs, datasets_of, ran
from promptailor.evals.exhibits import Exhibit, Row, RunMethod
from promptailor.evals.metrics import PRIMARY
from promptailor.evals.page_view import Cell, Finding, Line, Table
from promptailor.evals.published_figures import Printed, Published
from promptailor.evals.report import MethodResult
from promptailor.evals.statistics import Comparison, Estimate, compare
from promptailor.prompts.patterns import Catalogue

LOWER_IS_BETTER = ("rmse", "mae", "calls", "seconds")
COSTS = ("calls", "seconds")
"""Measures that are no quality: model calls and seconds per user."""
NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What every exhibit is made from."""

    runs: Runs
    published: Published
    catalogue: Catalogue
    training_seconds: Mapping[str, float] = field(default_factory=dict)
    """By training folder, as the suite measured it."""


def measured(results: Sequence[MethodResult], measure: str) -> Estimate | None:
    """Return a method's figure: its own interval for one seed, mean and standard deviation over seeds for several.

    None where a run lacks the measure.
    """
    values = [_measure(result, measure) for result in results]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return known[0] if len(known) == 1 else over_seeds([value.mean for value in known])


def over_seeds(means: Sequence[float]) -> Estimate:
    """Return the mean over seeds, with one (sample) standard deviation to either side."""
    mean, sd = float(np.mean(means)), float(np.std(means, ddof=1))
    return Estimate(mean=mean, low=mean - sd, high=mean + sd)


def _measure(result: MethodResult, measure: str) -> Estimate | None:
    if measure in COSTS:
        total = result.llm_calls if measure == "calls" else result.seconds
        return Estimate(mean=total / result.n_users, low=total / result.n_users, high=total / result.n_users)
    return result.measures.get(measure)


def shown(measure: str, value: float) -> str:
    """Return a figure as it is printed."""
    return f"{value:.1f}" if measure == "calls" else f"{value:.3f}"


def _spread(value: Estimate, n_seeds: int, measure: str) -> str:
    if n_seeds > 1:
        return f"± {shown(measure, value.high - value.mean)} over {n_seeds} seeds"
    return "" if measure in COSTS else f"[{value.low:.3f}, {value.high:.3f}]"


def _printed(found: Printed | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.sd is None else f"{found.mean:.2f} ± {found.sd:.2f}"


def cell_of(
    value: Estimate | None, n_seeds: int, measure: str, printed: Printed | None = None, *, best: bool = False
) -> Cell:
    """Return the cell of a row that `n_seeds` runs were made for; without a figure it says why there is none."""
    if value is None:
        return Cell(text=NOT_RUN if not n_seeds else "not measured", printed=_printed(printed), missing=True)
    return Cell(
        text=shown(measure, value.mean),
        small=_spread(value, n_seeds, measure),
        printed=_printed(printed),
        best=best,
    )


def value_table(exhibit: Exhibit, sources: Sources, *, folded: bool = False) -> Table:
    """Lay out rows x (data set x measure), as the paper does."""
    datasets = datasets_of(exhibit)
    columns = [(dataset, measure) for dataset in datasets for measure in exhibit.measures]
    cells = [_column(exhibit, dataset, measure, sources) for dataset, measure in columns]
    lines = [
        Line(label=label_of(row), upper_bound=row.upper_bound, cells=of_row)
        for row, of_row in zip(exhibit.rows, zip(*cells, strict=True), strict=True)
    ]
    return Table(
        caption="Mean over users; below it the 95 % interval, or one standard deviation over seeds"
        + ("; then what the paper prints" if any(cell.printed for line in lines for cell in line.cells) else ""),
        corner="",
        head=tuple(measure_name(measure) for _, measure in columns),
        groups=tuple((dataset, len(exhibit.measures)) for dataset in datasets),
        lines=tuple(lines),
        folded=folded,
    )


def _column(exhibit: Exhibit, dataset: str, measure: str, sources: Sources) -> list[Cell]:
    values = [value_of(row, dataset, measure, sources) for row in exhibit.rows]
    best = _best(exhibit.rows, values, measure)
    return [
        cell_of(
            value,
            len(row.runs.get(dataset, ())),
            measure,
            sources.published.find(exhibit.id, dataset, row.label, measure),
            best=place in best,
        )
        for place, (row, value) in enumerate(zip(exhibit.rows, values, strict=True))
    ]


def label_of(row: Row) -> str:
    """Name a row; a point of a curve also by its line and place."""
    place = "" if row.x is None else f"{row.x:g}" if isinstance(row.x, (int, float)) else row.x
    series = row.series if row.series not in (None, row.label) else None
    label = ", ".join(part for part in (row.label, series, place) if part)
    return f"{label} (upper bound)" if row.upper_bound else label


def measure_name(measure: str) -> str:
    """Return what a column is called."""
    return {"calls": "calls per user", "seconds": "seconds per user"}.get(measure, measure.upper())


def value_of(row: Row, dataset: str, measure: str, sources: Sources) -> Estimate | None:
    """Return a row's figure on one data set; None where it was not run, or a run lacks the measure."""
    return measured([sources.runs.result(run) for run in row.runs.get(dataset, ())], measure)


def _best(rows: Sequence[Row], values: Sequence[Estimate | None], measure: str) -> set[int]:
    """Return the rows with the best figure as shown; a bound is no result, and a single figure is not the best."""
    sign = -1 if measure in LOWER_IS_BETTER else 1
    known = {
        place: sign * float(shown(measure, value.mean))
        for place, (row, value) in enumerate(zip(rows, values, strict=True))
        if value is not None and not row.upper_bound
    }
    return {place for place, value in known.items() if value == max(known.values())} if len(known) > 1 else set()


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
                Line(label=folder, cells=tuple(Cell(text=text) for text in facts)) for folder, facts in named.items()
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
        scores = {label: _per_user(rows[label].runs[dataset], sources.runs) for label in labels}
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


def _per_user(runs: Sequence[RunMethod], source: Runs) -> dict[str, float]:
    """Return each user's mean over the seeds, of the users that every seed has."""
    by_seed = [source.records(run) for run in runs]
    common = [user for user in by_seed[0] if all(user in records for records in by_seed)]
    return {user: float(np.mean([records[user].metrics[PRIMARY] for records in by_seed])) for user in common}


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
                Cell(
                    text=f"{f.comparison.difference:+.3f}",
                    small=f"[{f.comparison.low:+.3f}, {f.comparison.high:+.3f}]",
                    best=f.outcome == "gain",
                ),
                Cell(text="" if f.printed is None else f"{f.printed:+.2f}"),
                Cell(text=f"{f.comparison.p_holm:.2g}"),
                Cell(text="" if f.comparison.mde is None else f"{f.comparison.mde:.3f}"),
                Cell(text=str(f.n_users), small=f"{f.n_seeds} seeds" if f.n_seeds > 1 else ""),
                Cell(text=f.outcome),
            ),
        )
        for f in found
    ]
    head = (
        *(("exhibit",) if name_exhibit else ()),
        "data set",
        f"difference in {PRIMARY.upper()}",
        "paper",
        "p (Holm)",
        "smallest detectable",
        "users",
        "finding",
    )
    return Table(caption=caption, corner="comparison", head=head, lines=tuple(lines))
