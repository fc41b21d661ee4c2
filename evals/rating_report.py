"""What an evaluation of ratings found: RMSE and MAE with intervals, one record per method and user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from promptailor.evals.ratings import PredictedRating, RatingCase
from promptailor.evals.records import write_lines, write_text
from promptailor.evals.statistics import Array, Comparison, Estimate, compare, estimate
from promptailor.policies.manual import Stopped
from promptailor.prompts.domain import Model


class RatingRecord(Model):
    """One method's answer for one user."""

    method: str
    user_id: str
    item_id: str
    prediction: float
    rating: float
    llm_calls: int
    invalid: bool
    prompt_digest: str | None
    actions: dict[str, int | None]


class RatingResult(Model):
    """How well one method predicts."""

    rmse: Estimate
    mae: Estimate
    n_users: int
    llm_calls: int
    """To serve the test users; what a search took is in `RatingReport.searches`."""
    invalid_rate: float


class RatingSearch(Model):
    """A prompt or policy that was searched on training users."""

    trials: int
    """As many as it was given; a spent budget may have ended it earlier."""
    stopped: Stopped
    prompt: dict[str, int | None] | None
    """The prompt that serves everybody, in numbers; None where each user gets one."""


class RatingReport(Model):
    """An evaluation of ratings; `ratings.json`."""

    dataset: str
    dataset_digest: str
    catalogue_digest: str
    model: str | None
    seed: int
    commit: str | None
    command: str
    train_users: tuple[str, ...]
    """Whose last ratings the searches were rewarded by; empty where nothing was searched."""
    validation_users: tuple[str, ...]
    test_users: tuple[str, ...]
    bias_strengths: tuple[float, float] | None
    """Of users and items, chosen on validation users."""
    methods: dict[str, RatingResult]
    searches: dict[str, RatingSearch]
    paired: tuple[Comparison, ...]
    """Squared errors, `a` minus `b`, so less than zero where `a` is better."""
    incomplete: str | None
    """Why methods are missing; None where none is."""


def measure(cases: Sequence[RatingCase], predicted: Sequence[PredictedRating], *, name: str, seed: int) -> RatingResult:
    """Return RMSE and MAE over users.

    The bounds of the RMSE are the roots of those of the mean squared error: a BCa interval follows any rising function.
    """
    errors = _errors(cases, predicted)
    squared = estimate(errors**2, key=("ratings", seed, name, "rmse"))
    return RatingResult(
        rmse=Estimate(mean=math.sqrt(squared.mean), low=math.sqrt(squared.low), high=math.sqrt(squared.high)),
        mae=estimate(np.abs(errors), key=("ratings", seed, name, "mae")),
        n_users=len(cases),
        llm_calls=sum(p.llm_calls for p in predicted),
        invalid_rate=sum(p.invalid for p in predicted) / len(predicted),
    )


def compare_ratings(
    cases: Sequence[RatingCase],
    predicted: Mapping[str, Sequence[PredictedRating]],
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int,
) -> tuple[Comparison, ...]:
    """Compare methods' squared errors on the same users; pairs are named before the run."""
    squared = {name: _errors(cases, answers) ** 2 for name, answers in predicted.items()}
    known = [(a, b) for a, b in pairs if a in squared and b in squared]
    return tuple(compare(squared, known, key=("ratings", seed, "paired"), planned=True))


def write_ratings(
    folder: Path,
    report: RatingReport,
    cases: Sequence[RatingCase],
    predicted: Mapping[str, Sequence[PredictedRating]],
) -> None:
    """Write `ratings.json`, `ratings.md` and `per_user.jsonl`."""
    records = [
        RatingRecord(
            method=name,
            user_id=case.request.user_id,
            item_id=case.request.item.item_id,
            prediction=answer.rating,
            rating=case.rating,
            llm_calls=answer.llm_calls,
            invalid=answer.invalid,
            prompt_digest=answer.prompt_digest,
            actions=dict(answer.actions),
        )
        for name, answers in predicted.items()
        for case, answer in zip(cases, answers, strict=True)
    ]
    write_lines(folder / "per_user.jsonl", records)
    write_text(folder / "ratings.md", to_markdown(report))
    write_text(folder / "ratings.json", report.model_dump_json(indent=2) + "\n")


def to_markdown(report: RatingReport) -> str:
    """Write the report as a page."""
    lines = [
        f"# Predicted ratings: {report.dataset}",
        "",
        f"The ratings that {len(report.test_users)} test users gave their last item"
        + (f", model `{report.model}`" if report.model else "")
        + f", seed {report.seed}. 95 % intervals, users resampled.",
        "",
        "| method | RMSE | MAE | calls/user | invalid |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, result in report.methods.items():
        calls = result.llm_calls / result.n_users
        cells = [name, interval(result.rmse), interval(result.mae), f"{calls:.1f}", f"{result.invalid_rate:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    if report.incomplete:
        lines += ["", f"Incomplete: {report.incomplete}"]
    if report.paired:
        lines += [
            "",
            "Squared error, first method minus second (below zero: the first is better); paired permutations, Holm:",
            "",
            *(
                f"- {c.a} - {c.b}: {c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}], p = {c.p_holm:.4f}"
                for c in report.paired
            ),
        ]
    if report.searches:
        lines += ["", f"Searched on the last ratings of {len(report.train_users)} training users:", ""]
        lines += [f"- {name}: {s.trials:,} trials, {s.stopped}" for name, s in report.searches.items()]
    lines += ["", f"`{report.command}`" + (f" at {report.commit}" if report.commit else ""), ""]
    return "\n".join(lines)


def interval(found: Estimate) -> str:
    """Write an estimate with its interval."""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _errors(cases: Sequence[RatingCase], predicted: Sequence[PredictedRating]) -> Array:
    return np.array([answer.rating - case.rating for case, answer in zip(cases, predicted, strict=True)])
