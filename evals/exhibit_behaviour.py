"""Exhibits of what methods did: learning, headroom, slots, popularity, sentences, steps, cases. Imported only where a
page is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from promptailor.evals import plots
from promptailor.evals.case_studies import moves, pairs_of
from promptailor.evals.exhibit_made import Made
from promptailor.evals.exhibit_runs import MeasuredFigure, datasets_of, ran
from promptailor.evals.exhibit_tables import (
    Sources,
    cell_of,
    estimate_cell,
    label_of,
)
from promptailor.evals.exhibits import Exhibit, Row, RunMethod
from promptailor.evals.metrics import PRIMARY
from promptailor.evals.page_view import Bar, Cell, Figure, Line, MovesOn, Points, Table
from promptailor.evals.popularity_profile import popularity, popularity_profile
from promptailor.evals.records import UserRecord
from promptailor.evals.render import LADDER
from promptailor.evals.report import CurvePoint, EvalReport, SentenceShare, SlotProfile
from promptailor.evals.statistics import Estimate
from promptailor.evals.step_bound import StepProfile, step_profile
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue


def make_learning(exhibit: Exhibit, sources: Sources) -> Made:
    """Draw reward against the calls spent in training."""
    curves: dict[str, tuple[CurvePoint, ...]] = {}
    drawn: set[Path | None] = set()
    for dataset in datasets_of(exhibit):
        for row, runs in ran(exhibit, dataset):
            for run in runs:
                seed = f", seed {sources.runs[run].report.environment.seed}" if len(runs) > 1 else ""
                if run.training is not None and run.training in drawn:  # one policy served in several ways
                    continue
                if points := sources.runs.learning_curve(run):
                    drawn.add(run.training)
                    curves[f"{label_of(row)}, {dataset}{seed}"] = points
    lines = [
        Line(
            label=label,
            cells=(
                Cell(text=f"{points[-1].calls:,}"),
                Cell(text=f"{points[0].mean_reward:.3f}"),
                Cell(text=f"{points[-1].mean_reward:.3f}"),
                Cell(text=f"{max(checked):.3f}" if (checked := [p.validation for p in points if p.validation]) else ""),
            ),
        )
        for label, points in curves.items()
    ]
    table = Table(
        caption="Training runs",
        corner="run",
        head=("calls", "first reward", "last reward", "best validation"),
        lines=tuple(lines),
        folded=True,
    )
    figure = Figure(
        caption=f"Mean {PRIMARY.upper()} of the training users' answers, and of the validation users that select the"
        " policy, against model calls.",
        draw=partial(plots.learning_curve, curves, name=exhibit.id),
    )
    return Made(tables=(table,) if lines else (), figures=(figure,) if curves else ())


def _first_reports(exhibit: Exhibit, sources: Sources) -> Iterator[tuple[str, list[EvalReport]]]:
    """Yield, by data set, the reports of the folders behind an exhibit, each once."""
    for dataset in datasets_of(exhibit):
        folders = {run.folder: run for _, runs in ran(exhibit, dataset) for run in runs}
        if folders:
            yield dataset, [sources.runs[run].report for run in folders.values()]


def make_headroom(exhibit: Exhibit, sources: Sources) -> Made:
    """Take the gain apart, as the runs measured it."""
    columns: dict[str, dict[str, MeasuredFigure]] = {}
    gains: list[Line] = []
    for dataset, reports in _first_reports(exhibit, sources):
        found = [(report, report.decomposition) for report in reports if report.decomposition]
        for name in LADDER if found else ():
            values = [value for _, parts in found if (value := getattr(parts, name)) is not None]
            if values:
                interval = values[0] if len(values) == 1 else None
                means = tuple(value.mean for value in values)
                columns.setdefault(dataset, {})[name] = MeasuredFigure(means=means, interval=interval)
        gains += [
            Line(
                label=f"{LADDER.get(c.a, c.a)} − {LADDER.get(c.b, c.b)}",
                cells=(
                    Cell(text=dataset),
                    Cell(text=str(report.environment.seed)),
                    Cell(text=f"{c.difference:+.3f}", small=f"[{c.low:+.3f}, {c.high:+.3f}]"),
                    Cell(text=f"{c.p_holm:.2g}"),
                    Cell(text="" if c.mde is None else f"{c.mde:.3f}"),
                ),
            )
            for report, parts in found
            for c in parts.gains
        ]
    if not columns:
        return Made(notes=("No run of this exhibit measured the gain decomposition; run `evaluate --decompose N`.",))
    steps = [name for name in LADDER if any(name in column for column in columns.values())]
    ladder = Table(
        caption=f"Mean {PRIMARY.upper()} of each way of choosing a prompt; both oracles are upper bounds. The interval"
        " of one seed, or the standard deviation over several",
        corner="choice of prompt",
        head=tuple(columns),
        lines=tuple(
            Line(
                label=LADDER[name],
                upper_bound=name.startswith("oracle"),
                cells=tuple(
                    cell_of(column[name], PRIMARY) if name in column else Cell() for column in columns.values()
                ),
            )
            for name in steps
        ),
    )
    panels = {
        dataset: [
            Bar(LADDER[name], column[name].drawn, None, name.startswith("oracle"))
            for name in steps
            if name in column and name != "share_of_headroom"
        ]
        for dataset, column in columns.items()
    }
    steps_table = Table(
        caption="Paired gains of each step, 95 % intervals, Holm's correction within a run",
        corner="step",
        head=("data set", "seed", "gain", "p (Holm)", "smallest detectable"),
        lines=tuple(gains),
        folded=True,
    )
    figure = Figure(
        caption="One prompt for all, one per segment, one per user, and the ceilings above them: the oracle scored on"
        " fresh permutations, and the oracle after the fact, which nothing can reach.",
        draw=partial(plots.bars, panels, PRIMARY.upper(), name=exhibit.id),
    )
    return Made(tables=(ladder, steps_table), figures=(figure,))


def make_slots(exhibit: Exhibit, sources: Sources) -> Made:
    """Draw quality by the place of the relevant item."""
    tables, figures = [], []
    for dataset in datasets_of(exhibit):
        profiles: dict[str, SlotProfile] = {}
        for row, runs in ran(exhibit, dataset):
            report = sources.runs[runs[0]].report
            profiles[label_of(row)] = report.slot_profiles[runs[0].method]
            chance = report.chance[PRIMARY]
        if not profiles:
            continue
        slots = sorted({s.slot for profile in profiles.values() for s in profile.slots})
        lines = []
        for label, profile in profiles.items():
            at = {s.slot: s.score for s in profile.slots}
            lines.append(Line(label=label, cells=tuple(_plain(at.get(slot)) for slot in slots)))
        tables.append(
            Table(
                caption=f"{dataset}: {PRIMARY.upper()} by the slot of the relevant item",
                corner="method",
                head=tuple(str(slot + 1) for slot in slots),
                lines=tuple(lines),
                folded=True,
            )
        )
        figures.append(
            Figure(
                caption=f"{dataset}: {PRIMARY.upper()} by the place of the relevant item in the last prompt"
                f" (canonical order where there is none), with 95 % intervals; the dashed line is chance,"
                f" {chance:.3f}. First seed.",
                draw=partial(plots.slot_profile, profiles, chance, name=f"{exhibit.id}-{dataset}"),
            )
        )
    return Made(tables=tuple(tables), figures=tuple(figures))


def _plain(value: Estimate | None) -> Cell:
    return Cell() if value is None else estimate_cell(value)


def make_popularity(exhibit: Exhibit, sources: Sources) -> Made:
    """Draw quality by how popular the relevant item is."""
    panels: dict[str, dict[str, Points]] = {}
    tables = []
    for dataset in datasets_of(exhibit):
        lines, heads = [], dict[str, None]()
        for row, runs in ran(exhibit, dataset):
            run = sources.runs[runs[0]]
            bands = popularity_profile(
                sources.runs.records(runs[0]), popularity(run.cases), seed=run.report.environment.seed or 0
            )
            names = [f"{band.low}–{band.high}" if band.high > band.low else str(band.low) for band in bands]
            panels.setdefault(dataset, {})[label_of(row)] = [
                (name, band.score) for name, band in zip(names, bands, strict=True)
            ]
            heads |= dict.fromkeys(names)
            cells = {
                name: Cell(text=f"{band.score.mean:.3f}", small=f"{_spread(band.score)}, {band.n_users} users")
                for name, band in zip(names, bands, strict=True)
            }
            lines.append((label_of(row), cells))
        if lines:
            tables.append(
                Table(
                    caption=f"{dataset}: {PRIMARY.upper()} by the number of the run's users that have the relevant item"
                    " in their history",
                    corner="method",
                    head=tuple(heads),
                    lines=tuple(
                        Line(label=label, cells=tuple(cells.get(name, Cell()) for name in heads))
                        for label, cells in lines
                    ),
                    folded=True,
                )
            )
    figure = Figure(
        caption=f"{PRIMARY.upper()} by how popular the relevant item is, in bands of about as many users. Popularity is"
        " counted in the histories of the run's own users, because run folders hold no data set. First seed.",
        draw=partial(plots.curves, panels, PRIMARY.upper(), x_label="histories with the item", name=exhibit.id),
    )
    return Made(tables=tuple(tables), figures=(figure,) if panels else ())


def _spread(value: Estimate) -> str:
    return f"[{value.low:.3f}, {value.high:.3f}]"


def make_sentences(exhibit: Exhibit, sources: Sources) -> Made:
    """Draw how many users got each sentence."""
    tables, figures = [], []
    for dataset in datasets_of(exhibit):
        for row, runs in ran(exhibit, dataset):
            reported = [sources.runs[run].report.sentences.get(run.method, {}) for run in runs]
            shares = _pooled(reported, sources.catalogue)
            if not shares:
                continue
            n_users = {pattern: sum(share.n_users for share in of) for pattern, of in shares.items()}
            tables.append(
                Table(
                    caption=f"{label_of(row)}, {dataset}: users per sentence, in the last prompt",
                    corner="sentence",
                    head=("pattern", "users", "share"),
                    lines=tuple(
                        Line(
                            label=share.label,
                            cells=(
                                Cell(text=pattern.replace("_", " ")),
                                Cell(text=str(share.n_users)),
                                Cell(text=f"{share.n_users / n_users[pattern]:.1%}"),
                            ),
                        )
                        for pattern, of in shares.items()
                        for share in of
                    ),
                    folded=True,
                )
            )
            figures.append(
                Figure(
                    caption=f"{label_of(row)}, {dataset}: share of users per sentence of each pattern, in the last"
                    + (f" prompt, over {len(runs)} seeds." if len(runs) > 1 else " prompt."),
                    draw=partial(plots.sentence_shares, shares, f"{exhibit.id}-{dataset}-{row.label}"),
                )
            )
    return Made(tables=tuple(tables), figures=tuple(figures))


def _pooled(
    runs: Iterable[Mapping[str, tuple[SentenceShare, ...]]], catalogue: Catalogue
) -> dict[str, tuple[SentenceShare, ...]]:
    """Add up the users of several seeds; sentences in the order of the catalogue, history lengths as numbers."""
    counts: dict[str, Counter[str]] = {}
    for shares in runs:
        for pattern, of in shares.items():
            counts.setdefault(pattern, Counter()).update({share.label: share.n_users for share in of})
    place = {s.id: place for pattern in SENTENCE_PATTERNS for place, s in enumerate(catalogue.sentences(pattern))}
    return {
        pattern: tuple(
            SentenceShare(label=label, n_users=users[label])
            for label in sorted(users, key=lambda label: (place.get(label, len(place)), label.zfill(4)))
        )
        for pattern, users in counts.items()
    }


def make_steps(exhibit: Exhibit, sources: Sources) -> Made:
    """Hold what was served against the best step."""
    panels: dict[str, dict[str, Points]] = {}
    bounds: list[str] = []
    lines: list[Line] = []
    for dataset in datasets_of(exhibit):
        for row, runs in ran(exhibit, dataset):
            seed = sources.runs[runs[0]].report.environment.seed or 0
            profile = step_profile(sources.runs.records(runs[0]).values(), seed=seed)
            if profile is None:
                continue
            lines.append(Line(label=label_of(row), cells=(Cell(text=dataset), *_step_cells(profile))))
            if len(profile.alone) > 1:
                panel = panels.setdefault(dataset, {})
                panel[f"{label_of(row)}, step t"] = list(enumerate(profile.alone, 1))
                bounds.append(f"{label_of(row)}, best of t (bound)")
                panel[bounds[-1]] = list(enumerate(profile.best_so_far, 1))
    table = Table(
        caption=f"{PRIMARY.upper()} of what was served, of the first and the last step, and of every user's best step"
        " after the fact. The last column is an upper bound that needs the answer; it is no result. First seed",
        corner="method",
        head=("data set", "steps", "served", "first step", "last step", "best step (upper bound)"),
        lines=tuple(lines),
    )
    figure = Figure(
        caption="Had everybody been served step t, and had everybody been served their best step so far. The second"
        " rises even where the prompt does not change, because each step shows the candidates in another order.",
        draw=partial(plots.curves, panels, PRIMARY.upper(), x_label="step t", name=exhibit.id, bounds=bounds),
    )
    if not lines:
        return Made(notes=("The records of these runs do not say what single steps answered.",))
    return Made(tables=(table,), figures=(figure,) if panels else ())


def _step_cells(profile: StepProfile) -> tuple[Cell, ...]:
    ends = (profile.served, profile.alone[0], profile.alone[-1], profile.best_so_far[-1])
    return (Cell(text=str(len(profile.alone))), *map(estimate_cell, ends))


def make_cases(exhibit: Exhibit, sources: Sources) -> Made:
    """Compare the first row's prompts with every later row's, on the first seed."""
    found = []
    for dataset in datasets_of(exhibit):
        rows = ran(exhibit, dataset)
        if len(rows) < 2 or rows[0][0] is not exhibit.rows[0]:
            continue
        first, others = rows[0], rows[1:]
        for _, runs in rows:
            _check_catalogue(runs[0], sources)
        cases = {case.user_id: case for case in sources.runs[first[1][0]].cases}
        before = _named(first, sources)
        pairs = [pair for other in others for pair in pairs_of(cases, before, _named(other, sources))]
        if moved := moves(pairs, sources.catalogue):
            found.append(MovesOn(dataset=dataset, moves=moved))
    return Made(
        cases=tuple(found),
        notes=(
            "Of the users whose two prompts differ in one pattern alone, the one that it helped most is shown, ties by"
            " a digest; the counts say how often the same kind of change helped and hurt. First seed.",
        ),
    )


def _named(row: tuple[Row, tuple[RunMethod, ...]], sources: Sources) -> tuple[str, Mapping[str, UserRecord]]:
    return label_of(row[0]), sources.runs.records(row[1][0])


def _check_catalogue(run: RunMethod, sources: Sources) -> None:
    digest = sources.runs[run].report.environment.catalogue_digest
    if digest is not None and not sources.catalogue.reads(digest):
        raise InputError(
            f"{run.folder}: was made with another catalogue; name its file, so that sentences can be shown"
        )
