"""Exhibits of what training runs changed in a prompt's words: sentences that were added, instructions rewritten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from promptailor.evals.exhibit_made import Made
from promptailor.evals.exhibit_runs import datasets_of, ran
from promptailor.evals.exhibit_tables import Sources, label_of
from promptailor.evals.exhibits import Exhibit, RunMethod
from promptailor.evals.page_view import Cell, Line, Table
from promptailor.evals.sentences import (
    LINEAGE_FILE,
    RANKING_FILE,
    Admission,
    Extension,
    SentenceRanking,
    read_extension,
    read_ranking,
)
from promptailor.policies.acceptance import Verdict
from promptailor.policies.lineage import LINEAGE_FILE as VERSIONS_FILE
from promptailor.policies.lineage import PromptVersion, read_lineage


def make_admissions(exhibit: Exhibit, sources: Sources) -> Made:
    """List the sentences that were proposed, with their effects on held-out users."""
    found = {
        folder: (dataset, read_extension(folder / LINEAGE_FILE))
        for dataset, _, run in _runs(exhibit)
        if (folder := run.extension) and (folder / LINEAGE_FILE).is_file()
    }
    if not found:
        return Made(notes=("No run of this exhibit extended its catalogue.",))
    tables = []
    for dataset, extension in found.values():
        lines = [_admission_line(tried) for tried in extension.tried]
        head = ("pattern", "for everybody", "p", "as one more choice", "p", "chosen for", "outcome")
        tables.append(
            Table(
                caption=f"{dataset}: change of NDCG on {extension.held_out} held-out users, 95 % intervals, one-sided"
                f" p; alpha {extension.alpha:g} over {2 * len(lines)} tests",
                corner="sentence",
                head=head,
                lines=tuple(lines),
            )
        )
    rankings = {
        dataset: read_ranking(folder / RANKING_FILE)
        for folder, (dataset, _) in found.items()
        if (folder / RANKING_FILE).is_file()
    }
    tables += [_ranking_table(dataset, ranking) for dataset, ranking in rankings.items()]
    return Made(tables=tuple(tables), notes=tuple(_said(dataset, extension) for dataset, extension in found.values()))


def make_rounds(exhibit: Exhibit, sources: Sources) -> Made:
    """List the rewrites of AGP's instruction: how many were proposed and accepted, and each with its verdict."""
    counts: list[Line] = []
    rounds: list[Line] = []
    for dataset, label, run in _runs(exhibit):
        if run.training is None or not (run.training / VERSIONS_FILE).is_file():
            continue
        lineage = read_lineage(run.training)
        seed = sources.runs[run].report.environment.seed
        about = (Cell(text=dataset), Cell(text=str(seed)))
        versions = lineage.versions[1:]
        counted = (len(versions), lineage.proposed, lineage.n_accepted)
        counts.append(Line(label=label, cells=(*about, *(Cell(text=str(n)) for n in counted))))
        rounds += [Line(label=f"{label}, round {v.number}", cells=(*about, *_round_cells(v))) for v in versions]
    if not counts:
        return Made(notes=("No run of this exhibit rewrote an instruction.",))
    head = ("data set", "seed")
    tables = [
        Table(
            caption="Rounds of training; rewrites that passed the guards; those accepted on held-out users",
            corner="row",
            head=(*head, "rounds", "proposed", "accepted"),
            lines=tuple(counts),
        )
    ]
    if rounds:
        tables.append(
            Table(
                caption="Every round: the batch's mean rank before, the change of NDCG on held-out users, one-sided p",
                corner="round",
                head=(*head, "mean rank", "change", "p", "outcome"),
                lines=tuple(rounds),
                folded=True,
            )
        )
    return Made(tables=tuple(tables))


def _runs(exhibit: Exhibit) -> Iterator[tuple[str, str, RunMethod]]:
    """Yield every run with its data set and label; a training run that is served in several ways once."""
    seen: set[Path | None] = set()
    for dataset in datasets_of(exhibit):
        for row, runs in ran(exhibit, dataset):
            for run in runs:
                if run.training not in seen:
                    seen.add(run.training)
                    yield dataset, label_of(row), run


def _ranking_table(dataset: str, ranking: SentenceRanking) -> Table:
    c = ranking.correlation
    return Table(
        caption=f"{dataset}: fall of the listwise loss on {ranking.n_users} training users, foreseen by the gradient"
        f" and measured; rank correlation {c.mean:+.2f} [{c.low:+.2f}, {c.high:+.2f}]",
        corner="sentence",
        head=("pattern", "", "foreseen", "measured", "change of NDCG@10"),
        lines=tuple(
            Line(
                label=sentence.text,
                cells=(
                    Cell(text=sentence.pattern.replace("_", " ")),
                    Cell(text="proposed" if sentence.proposed else "in the catalogue"),
                    *(
                        Cell(text=f"{e.mean:+.3f}", small=f"[{e.low:+.3f}, {e.high:+.3f}]")
                        for e in (sentence.predicted, sentence.measured, sentence.ndcg)
                    ),
                ),
            )
            for sentence in ranking.sentences
        ),
        folded=True,
    )


def _admission_line(tried: Admission) -> Line:
    return Line(
        label=tried.proposal.text,
        cells=(
            Cell(text=tried.proposal.pattern.replace("_", " ")),
            *_verdict_cells(tried.everybody),
            *_verdict_cells(tried.suited),
            Cell(text=f"{tried.share_suited:.0%}"),
            Cell(text="admitted" if tried.admitted else "not shown to help", best=tried.admitted),
        ),
    )


def _round_cells(version: PromptVersion) -> tuple[Cell, ...]:
    rank = Cell(text="" if version.mean_rank is None else f"{version.mean_rank:.1f}")
    if version.verdict is None:
        return (rank, Cell(), Cell(), Cell(text=(version.reason or "").replace("_", " ")))
    outcome = "accepted" if version.accepted else "not shown to help"
    return (rank, *_verdict_cells(version.verdict), Cell(text=outcome, best=version.accepted))


def _verdict_cells(verdict: Verdict) -> tuple[Cell, Cell]:
    interval = f"[{verdict.low:+.3f}, {verdict.high:+.3f}]"
    p = "" if verdict.p is None else f"{verdict.p:.2g}"
    return Cell(text=f"{verdict.difference:+.3f}", small=interval), Cell(text=p)


def _said(dataset: str, extension: Extension) -> str:
    n_dropped = sum(extension.dropped.values())
    return (
        f"{dataset}: {len(extension.tried)} sentences by {extension.critic or 'a person'} were tried, {n_dropped} kept"
        f" out by the guards, {len(extension.admitted)} admitted, for {extension.llm_calls:,} calls."
    )
