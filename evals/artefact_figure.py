"""The artefact study as a picture. Imported only where it is drawn, because matplotlib takes a second."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptailor.evals.artefact import COPIES, ArtefactStudy, Finding, ProtocolName, expected_best_order
from promptailor.evals.metrics import PRIMARY

COLOURS: dict[ProtocolName, str] = {"shared": "#c2410c", "balanced": "#1d4ed8"}
NAMES: dict[ProtocolName, str] = {"shared": "one slot for everybody", "balanced": "a slot for each user"}


def draw(study: ArtefactStudy, path: Path) -> None:
    """Write the figure, a PNG: one run of the loop, and what choosing its best round gives."""
    rankers = list(dict.fromkeys(finding.ranker for finding in study.findings))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.6, 2.7 * len(rankers)), layout="constrained")
        grid = figure.subplots(len(rankers), 2, sharey=True, squeeze=False)
        for row, ranker in zip(grid, rankers, strict=True):
            _rounds(row[0], study, ranker)
            _selected(row[1], study, ranker)
        figure.legend(*grid[0][0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=2)
        figure.savefig(path, dpi=130, metadata={"Software": None})


def _rounds(axes: Axes, study: ArtefactStudy, ranker: str) -> None:
    for finding in _of(study, ranker):
        numbers = range(1, len(finding.rounds) + 1)
        scores = [r.test for r in finding.rounds]
        axes.plot(numbers, scores, "o-", color=COLOURS[finding.protocol], markersize=4, linewidth=1,
                  label=NAMES[finding.protocol])  # fmt: skip
    axes.set(title=f"{ranker}: one run", xlabel="round", ylabel=PRIMARY.upper())
    _chance(axes, study)


def _selected(axes: Axes, study: ArtefactStudy, ranker: str) -> None:
    for finding in _of(study, ranker):
        numbers = [s.n_rounds for s in finding.selected]
        colour = COLOURS[finding.protocol]
        axes.plot(numbers, [s.mean for s in finding.selected], color=colour, linewidth=2)
        axes.fill_between(
            numbers, [s.low for s in finding.selected], [s.high for s in finding.selected], color=colour, alpha=0.15
        )
    if ranker == COPIES:
        expected = [expected_best_order(study.n_candidates, n) for n in numbers]
        axes.plot(numbers, expected, color="black", linewidth=0.9, linestyle="--", label="exact expectation")
        axes.legend(frameon=False, loc="lower right")
    axes.set(title=f"{ranker}: the round that was best on training users", xlabel="rounds to choose from")
    _chance(axes, study)


def _of(study: ArtefactStudy, ranker: str) -> list[Finding]:
    return [finding for finding in study.findings if finding.ranker == ranker]


def _chance(axes: Axes, study: ArtefactStudy) -> None:
    axes.axhline(study.chance, color="#6b7280", linewidth=0.8, linestyle=":")
    axes.set_ylim(0.2, 1.03)
