"""From records to findings: intervals, comparisons, and a sentence that says what was shown and what was not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from promptailor.evals import metrics
from promptailor.evals.records import UserRecord
from promptailor.evals.report import (
    EvalReport,
    MethodResult,
    RunInfo,
    SentenceShare,
    SlotProfile,
    SlotScore,
    Split,
)
from promptailor.evals.statistics import ALPHA, POWER, Array, Comparison, compare, estimate, estimates, ratio_estimate

REFERENCES = ("identity", "random", "popularity", "manual", "enumeration")
"""Methods that others are measured against, the strongest last; a comparison is "later minus earlier"."""


def summarise(
    records: Mapping[str, Sequence[UserRecord]],
    controls: Mapping[str, Sequence[UserRecord]],
    info: RunInfo,
    *,
    seconds: Mapping[str, float],
    train_users: Sequence[str],
    incomplete: str | None,
    seed: int,
) -> EvalReport:
    """Turn records into findings.

    Args:
        records: every method's records, each with the same users in the same order; none where nothing was finished.
        controls: the same for the null controls.
        info: what the report says beyond its records.
        seconds: time per method and control.
        train_users: every user that some method was trained on.
        incomplete: why the run stopped early, if it did.
        seed: keys the resampling.
    """
    first = next(iter(records.values()), ())
    scores = {name: np.array([row.metrics[metrics.PRIMARY] for row in rows]) for name, rows in records.items()}
    results = {name: _result(rows, seconds[name], seed) for name, rows in records.items()}
    paired = _compare_all(scores, info.comparisons or (), seed)
    report = EvalReport(
        incomplete=incomplete,
        methods=results,
        controls={name: _result(rows, seconds[name], seed) for name, rows in controls.items()},
        chance=_chance(first),
        recall=sum(row.slot is not None for row in first) / len(first) if first else 1.0,
        decomposition=info.decomposition,
        paired=tuple(paired),
        slot_profiles={name: _slot_profile(rows, seed) for name, rows in records.items()},
        sentences={name: shares for name, rows in records.items() if (shares := _sentences(rows, info.action_names))},
        learning_curves=info.learning_curves,
        split=Split(
            train_users=tuple(train_users),
            validation_users=info.validation_users,
            test_users=tuple(row.user_id for row in first),
            warm_users=info.warm_users,
        ),
        environment=info.environment.model_copy(update={"seed": seed}),
    )
    base = {**records, **controls}.get("identity", ())
    relative = _relative_gains(report, scores, np.array([row.metrics[metrics.PRIMARY] for row in base]), seed)
    return report.model_copy(update={"verdicts": (*_verdicts(report), *relative)})


def verdict(c: Comparison) -> str:
    """Say in one sentence what a comparison shows; a null result is called one, with what could have been seen."""
    corrected = f" ({c.p_holm:.2g} after Holm's correction)" if c.p_holm != c.p else ""
    head = f"{c.a} minus {c.b}: {c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}], p = {c.p:.2g}{corrected}"
    if c.p_holm < ALPHA:
        return f"{head}: a {'gain' if c.difference > 0 else 'loss'} is shown."
    if c.mde is None:
        return f"{head}: no gain shown; one user shows nothing."
    return (
        f"{head}: no gain shown;"
        f" the smallest gain this run could have shown ({100 * POWER:.0f} % power) is {c.mde:.3f}."
    )


def _verdicts(report: EvalReport) -> list[str]:
    """Judge what the decomposition says of the policy, and every method that calls a model."""
    gains = report.decomposition.gains if report.decomposition else ()
    personal = [
        c.model_copy(update={"b": "the best single prompt"}) for c in gains if (c.a, c.b) == ("policy", "best_single")
    ]
    judged = (c for c in report.headlines if c.planned or report.methods[c.a].llm_calls)
    return [verdict(c) for c in (*personal, *judged)]


def _relative_gains(report: EvalReport, scores: Mapping[str, Array], base: Array, seed: int) -> list[str]:
    """Say by how much each method that calls a model improves on the order in which candidates were retrieved.

    All users count, those whose relevant item was not retrieved as 0 on both sides.
    """
    if report.retriever is None or not base.any():
        return []
    gains = {
        name: ratio_estimate(values, base, key=(seed, "relative", name))
        for name, values in scores.items()
        if report.methods[name].llm_calls and len(values) == len(base)
    }
    return [
        f"{name} over {report.retriever}'s order: {gain.mean - 1:+.1%} [{gain.low - 1:+.1%}, {gain.high - 1:+.1%}]"
        f" of {metrics.PRIMARY}."
        for name, gain in gains.items()
    ]


def _chance(rows: Sequence[UserRecord]) -> dict[str, float]:
    """Return the mean over users of what a random ranking of their candidates is expected to score."""
    if not rows:
        return {}
    hits = Counter(len(row.candidates) for row in rows if row.slot is not None)
    expected = {size: metrics.chance(size) for size in hits}
    means = {name: sum(n * expected[size][name] for size, n in hits.items()) / len(rows) for name in metrics.chance(1)}
    means[metrics.MEAN_RANK] += sum(len(row.candidates) + 1 for row in rows if row.slot is None) / len(rows)
    return means


def _result(rows: Sequence[UserRecord], seconds: float, seed: int) -> MethodResult:
    names = list(rows[0].metrics)
    table = np.array([[row.metrics[name] for name in names] for row in rows])
    measures = dict(zip(names, estimates(table, key=(seed, "scores")), strict=True))
    rewrites = sum(row.rewrites for row in rows)
    return MethodResult(
        n_users=len(rows),
        llm_calls=sum(row.llm_calls for row in rows),
        invalid_rate=sum(row.invalid for row in rows) / len(rows),
        rejected_rewrite_rate=sum(row.rejected_rewrites for row in rows) / rewrites if rewrites else None,
        seconds=round(seconds, 3),
        **measures,
    )


def _compare_all(scores: Mapping[str, Array], planned: Sequence[tuple[str, str]], seed: int) -> list[Comparison]:
    """Compare every method with every other, the planned pairs first and as a family of their own."""
    order = sorted(scores, key=lambda name: REFERENCES.index(name) if name in REFERENCES else len(REFERENCES))
    chosen = [(a, b) for a, b in planned if a in scores and b in scores]
    named = {frozenset(pair) for pair in chosen}
    rest = [(later, earlier) for earlier, later in combinations(order, 2) if frozenset((later, earlier)) not in named]
    return [
        *compare(scores, chosen, key=(seed, "planned"), planned=True),
        *compare(scores, rest, key=(seed, "paired")),
    ]


def _slot_profile(rows: Sequence[UserRecord], seed: int) -> SlotProfile:
    shown = any(row.shown_slot is not None for row in rows)
    by_slot: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        slot = row.shown_slot if shown else row.slot
        if slot is not None:
            by_slot[slot].append(row.metrics[metrics.PRIMARY])
    return SlotProfile(
        order="shown" if shown else "canonical",
        slots=tuple(
            SlotScore(slot=slot, n_users=len(scores), score=estimate(scores, key=(seed, "slot", slot)))
            for slot, scores in sorted(by_slot.items())
        ),
    )


def _sentences(
    rows: Sequence[UserRecord], action_names: Mapping[str, Sequence[str]]
) -> dict[str, tuple[SentenceShare, ...]]:
    """Count users per action of each pattern in their last prompt."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for row in rows:
        for pattern, action in (row.actions[-1] if row.actions else {}).items():
            counts[pattern][action] += 1
    if "history_length" in counts:  # what the increments added up to says more than the last increment
        counts.pop("history_records", None)
    return {
        pattern: tuple(
            SentenceShare(label=_label(action_names.get(pattern, ()), action), n_users=n_users)
            for action, n_users in sorted(users.items())
        )
        for pattern, users in counts.items()
    }


def _label(names: Sequence[str], action: int) -> str:
    return names[action] if 0 <= action < len(names) else str(action)
