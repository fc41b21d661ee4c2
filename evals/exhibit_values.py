"""Exhibits of values: tables, bars, curves, and quality against cost. Imported only where a page is made."""

from __future__ import annotations

from functools import partial

from promptailor.evals import plots
from promptailor.evals.exhibit_made import Made
from promptailor.evals.exhibit_runs import datasets_of, ran
from promptailor.evals.exhibit_tables import (
    Sources,
    label_of,
    measure_name,
    value_table,
)
from promptailor.evals.exhibits import Exhibit
from promptailor.evals.metrics import PRIMARY
from promptailor.evals.page_view import Bar, CostPoint, Figure, Points
from promptailor.evals.statistics import Estimate

WHISKERS = "95 % intervals over users, each averaged over the seeds where there are several"


def make_table(exhibit: Exhibit, sources: Sources) -> Made:
    """Show values in a table."""
    return Made(tables=value_table(exhibit, sources))


def make_bars(exhibit: Exhibit, sources: Sources) -> Made:
    """Draw values as bars beside the paper's."""
    figures = []
    for measure in exhibit.measures:
        panels = {
            dataset: [
                Bar(label_of(row), figure.drawn, None if printed is None else printed.mean, row.upper_bound)
                for row, runs in ran(exhibit, dataset)
                if (figure := sources.runs.figure(runs, measure))
                for printed in [sources.published.find(exhibit.id, dataset, row.label, measure)]
            ]
            for dataset in datasets_of(exhibit)
        }
        if drawn := {dataset: bars for dataset, bars in panels.items() if bars}:
            marks = any(bar.printed is not None for bars in drawn.values() for bar in bars)
            figures.append(
                Figure(
                    caption=f"{measure_name(measure)} with {WHISKERS}"
                    + ("; the mark is what the paper prints." if marks else "."),
                    draw=partial(plots.bars, drawn, measure_name(measure), name=f"{exhibit.id}-{measure}"),
                )
            )
    return Made(tables=value_table(exhibit, sources, folded=True), figures=tuple(figures))


def make_curve(exhibit: Exhibit, sources: Sources) -> Made:
    """Draw values over a setting."""
    figures = []
    for measure in exhibit.measures:
        panels: dict[str, dict[str, Points]] = {}
        for dataset in datasets_of(exhibit):
            lines: dict[str, list[tuple[float | str, Estimate]]] = {}
            for row, runs in ran(exhibit, dataset):
                if row.x is not None and (figure := sources.runs.figure(runs, measure)):
                    lines.setdefault(row.series or row.label, []).append((row.x, figure.drawn))
            if lines:
                panels[dataset] = dict(lines)
        if panels:
            figures.append(
                Figure(
                    caption=f"{measure_name(measure)} against {exhibit.x_label or 'x'}, with {WHISKERS}.",
                    draw=partial(
                        plots.curves,
                        panels,
                        measure_name(measure),
                        x_label=exhibit.x_label,
                        name=f"{exhibit.id}-{measure}",
                    ),
                )
            )
    return Made(tables=value_table(exhibit, sources, folded=True), figures=tuple(figures))


def make_cost(exhibit: Exhibit, sources: Sources) -> Made:
    """Draw quality against what a user costs."""
    panels: dict[str, list[CostPoint]] = {}
    for dataset in datasets_of(exhibit):
        for row, runs in ran(exhibit, dataset):
            quality, calls = (sources.runs.figure(runs, measure) for measure in (PRIMARY, "calls"))
            if quality and calls:
                panels.setdefault(dataset, []).append(CostPoint(label_of(row), calls.mean, quality.drawn))
    figure = Figure(
        caption=f"{PRIMARY.upper()} against the model calls that one user costs (logarithmic), with {WHISKERS}.",
        draw=partial(plots.cost, panels, PRIMARY, name=exhibit.id),
    )
    shown = exhibit.model_copy(update={"measures": (PRIMARY, "calls", "seconds")})
    return Made(tables=value_table(shown, sources, folded=True), figures=(figure,) if panels else ())
