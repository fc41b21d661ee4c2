"""From exhibits to sections of a page: what each kind of exhibit draws and says. Imported only where a page is made,
because matplotlib takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from promptailor.evals.exhibit_behaviour import (
    make_cases,
    make_headroom,
    make_learning,
    make_popularity,
    make_sentences,
    make_slots,
    make_steps,
)
from promptailor.evals.exhibit_changes import make_admissions, make_rounds
from promptailor.evals.exhibit_made import Made
from promptailor.evals.exhibit_runs import datasets_of
from promptailor.evals.exhibit_tables import (
    Sources,
    all_runs,
    cost_table,
    findings,
    made_by,
    missing_table,
)
from promptailor.evals.exhibit_values import make_bars, make_cost, make_curve, make_table
from promptailor.evals.exhibits import Exhibit, ExhibitKind
from promptailor.evals.page_view import Section
from promptailor.evals.published_figures import Published, contradictions

FURTHER_MEASURES = "table-3"
"""The paper's table whose figures can be held against those of its Table 2."""
NOTHING_RUN = "Nothing of this was run yet."
_OF_VALUES: tuple[ExhibitKind, ...] = ("table", "bars", "curve", "cost")
"""Kinds that say what is missing and what each row cost; the others only draw what there is."""


def section(exhibit: Exhibit, sources: Sources) -> Section:
    """Make an exhibit's tables, figures and notes.

    Raises:
        InputError: a folder that it names holds no run, or not the method; a run was made with another catalogue.
    """
    made = _KINDS[exhibit.kind](exhibit, sources)
    of_values, ran_at_all = exhibit.kind in _OF_VALUES, any(all_runs(exhibit))
    return Section(
        id=exhibit.id,
        title=exhibit.title,
        differs=exhibit.differs,
        notes=(
            *(made.notes if ran_at_all else (NOTHING_RUN,)),
            *_incomplete(exhibit, sources),
            *_impossible(exhibit, sources.published),
        ),
        tables=(
            *made.tables,
            *(missing_table(exhibit) if of_values or not ran_at_all else ()),
            *(cost_table(exhibit, sources) if of_values else ()),
            *made_by(exhibit, sources.runs),
        ),
        figures=made.figures,
        cases=made.cases,
        findings=tuple(findings(exhibit, sources)),
        commands=exhibit.commands,
    )


def _incomplete(exhibit: Exhibit, sources: Sources) -> Iterator[str]:
    reports = {sources.runs.name(run): sources.runs[run].report for run in all_runs(exhibit)}
    for name, report in reports.items():
        if report.incomplete:
            yield f"Incomplete, {name}: {report.incomplete}"


def _impossible(exhibit: Exhibit, published: Published) -> Iterator[str]:
    if exhibit.id != FURTHER_MEASURES:
        return
    if found := [line for dataset in datasets_of(exhibit) for line in contradictions(published, dataset)]:
        yield (
            "Some figures of the paper cannot come from the same rankings, because with one relevant item HR@5 is at"
            f" least NDCG@5, which is at least MRR@5, which is at least NDCG@1. {'; '.join(found)}."
        )


_KINDS: dict[ExhibitKind, Callable[[Exhibit, Sources], Made]] = {
    "table": make_table,
    "bars": make_bars,
    "curve": make_curve,
    "cost": make_cost,
    "learning": make_learning,
    "headroom": make_headroom,
    "slots": make_slots,
    "popularity": make_popularity,
    "sentences": make_sentences,
    "steps": make_steps,
    "cases": make_cases,
    "admissions": make_admissions,
    "rounds": make_rounds,
}
