"""Write a report for programs (JSON), for terminals and pull requests (Markdown) and for people (one HTML file)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from promptailor.evals.metrics import PRIMARY
from promptailor.evals.records import write_text
from promptailor.evals.report import EvalReport, MethodResult
from promptailor.evals.statistics import Comparison, Estimate
from promptailor.prompts.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Template

logger = logging.getLogger(__name__)

LADDER = {
    "best_single": "best single prompt",
    "per_segment": "best prompt per segment",
    "policy": "policy, per user",
    "oracle_corrected": "oracle, corrected",
    "oracle": "oracle, after the fact",
    "optimum": "optimum of the world",
    "share_of_headroom": "share of the headroom used",
}
"""What the parts of a decomposition are called."""


def write_report(folder: Path, report: EvalReport) -> None:
    """Write `report.json`, `report.md` and `report.html`; without the extra that draws, the page alone is left out."""
    write_text(folder / "report.json", report.model_dump_json(indent=2) + "\n")
    write_text(folder / "report.md", to_markdown(report))
    try:
        write_text(folder / "report.html", to_html(report))
    except MissingExtraError as error:
        logger.warning("report.html is left out: %s", error)


def title(report: EvalReport) -> str:
    """Return the report's heading."""
    on = f" on {report.environment.dataset}" if report.environment.dataset else ""
    return f"Evaluation of {len(report.methods)} methods{on}, {len(report.split.test_users)} users"


def to_markdown(report: EvalReport) -> str:
    """Return the report as Markdown."""
    parts = [f"# {title(report)}"]
    if report.incomplete:
        parts.append(f"**Incomplete.** {_text(report.incomplete)}")
    if report.verdicts:
        parts.append("\n".join(f"* {_text(verdict)}" for verdict in report.verdicts))
    parts += ["## Methods", _results(report.methods)]
    if report.retriever:
        parts.append(_text(retrieval(report)))
    if report.controls:
        expected = f"Chance is {PRIMARY.upper()} = {report.chance[PRIMARY]:.3f}."
        parts += ["## Null controls", expected, _results(report.controls)]
    if report.decomposition:
        rows = [[LADDER[name], _interval(value)] for name, value in ladder(report).items()]
        parts += ["## Where the gain comes from", _table(["choice of prompt", PRIMARY.upper()], rows)]
    if report.paired:
        parts += ["## Paired differences", _comparisons(report.paired)]
    parts += ["## Run", _table(["", ""], [[name, value] for name, value in facts(report).items()])]
    return "\n\n".join(parts) + "\n"


def to_html(report: EvalReport) -> str:
    """Return the report as one HTML file that needs nothing else; everything in it that is not ours is escaped.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    try:  # both are extras, and slow to import
        from promptailor.evals import plots  # noqa: PLC0415

        page = load_template("report.html.j2")
    except ImportError as error:
        raise MissingExtraError("report.html", "baselines") from error
    return page.render(
        report=report,
        title=title(report),
        primary=PRIMARY,
        ladder=ladder(report),
        names=LADDER,
        facts=facts(report),
        retrieval=retrieval(report) if report.retriever else "",
        varied={
            name: shares for name, shares in report.sentences.items() if any(len(rows) > 1 for rows in shares.values())
        },
        plots=plots,
    )


def load_template(name: str) -> Template:
    """Load a page's template, everything put into which is escaped; `ImportError` where jinja2 is not installed."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - an extra, and slow to import

    folder = resources.files("promptailor.evals").joinpath("templates")
    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda file: folder.joinpath(file).read_text("utf-8")),
    ).get_template(name)


def facts(report: EvalReport) -> dict[str, str]:
    """Return what somebody needs to make the run again, as shown; what is unknown is left out."""
    about, split = report.environment, report.split
    shown = {
        "command": about.command,
        "commit": about.commit,
        "started": about.started_at,
        "model": about.model,
        "data set": about.dataset,
        "data digest": about.dataset_digest,
        "catalogue digest": about.catalogue_digest,
        "seed": str(about.seed),
        "users": f"{len(split.train_users)} train, {len(split.validation_users)} validation,"
        f" {len(split.test_users)} test, {len(split.warm_users)} warm",
        "versions": ", ".join(f"{name} {version}" for name, version in about.versions.items()),
        **{name: str(value) for name, value in about.settings.items()},
    }
    return {name: value for name, value in shown.items() if value}


def retrieval(report: EvalReport) -> str:
    """Say what the candidates of a run are that a retriever chose."""
    return (
        f"The candidates are what {report.retriever} retrieved: {report.recall:.1%} of the relevant items are among"
        " them, users without theirs count as 0, and no ranking scores more. Identity is the retriever's own order, so"
        " it is what a ranking has to beat, and not at chance."
    )


def ladder(report: EvalReport) -> dict[str, Estimate]:
    """Return the parts of the decomposition that there are."""
    found = report.decomposition
    if not found:
        return {}
    values = {name: getattr(found, name) for name in LADDER}
    return {name: value for name, value in values.items() if value is not None}


def _results(results: Mapping[str, MethodResult]) -> str:
    measures = list(next(iter(results.values())).measures) if results else []
    head = [
        "method",
        *(name.upper() for name in measures),
        "users",
        "calls per user",
        "invalid",
        "rewrites rejected",
        "seconds",
    ]
    rows = [
        [
            name,
            *(_interval(result.measures[measure]) for measure in measures),
            str(result.n_users),
            f"{result.llm_calls / result.n_users:.1f}",
            f"{result.invalid_rate:.1%}",
            "" if result.rejected_rewrite_rate is None else f"{result.rejected_rewrite_rate:.1%}",
            f"{result.seconds:.1f}",
        ]
        for name, result in results.items()
    ]
    return _table(head, rows)


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    head = ["a", "b", f"a − b in {PRIMARY.upper()}", "p", "p (Holm)", "smallest detectable", "planned"]
    rows = [
        [
            c.a,
            c.b,
            f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]",
            f"{c.p:.2g}",
            f"{c.p_holm:.2g}",
            "" if c.mde is None else f"{c.mde:.3f}",
            "yes" if c.planned else "no",
        ]
        for c in comparisons
    ]
    return _table(head, rows)


def _interval(value: Estimate) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [[_text(cell) for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'---|' * len(cells[0])}", *lines[1:]])


def _text(cell: str) -> str:
    """Keep text that is not ours from becoming markup."""
    return " ".join(cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").split())
