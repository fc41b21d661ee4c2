"""Explanations: per step and pattern, which sentence was chosen, with what probability, and what changed."""

from __future__ import annotations

from collections.abc import Sequence

from promptailor.graph.state import ChoiceView, StepRecord, StepView
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, PatternName, PromptSpec


def explain_steps(trace: Sequence[StepRecord], catalogue: Catalogue, domain: str) -> list[StepView]:
    """Return one view per step."""
    before = [trace[0], *trace[:-1]]
    return [
        StepView(
            step=step,
            prompt_digest=record.prompt.digest,
            history_length=record.prompt.history_length,
            choices=_choices(record, previous.spec, catalogue, domain),
            shown=[item.item_id for item in record.prompt.shown],
            ranking=[item.item_id for item in record.ranking],
            parse=record.parse,
            cached=record.cached,
            permutations=record.n_permutations,
            windows=record.n_windows,
            triggers=record.prompt.triggers,
            refined=dict(record.refined),
            rejected=dict(record.rejected),
        )
        for step, (previous, record) in enumerate(zip(before, trace, strict=True))
    ]


def choice_text(catalogue: Catalogue, domain: str, pattern: PatternName, action: int) -> str:
    """Return what an action adds to the prompt, in words."""
    if pattern == "history_records":
        return f"+{catalogue.history_records.increments[action]} interactions"
    if pattern == "user_profile":
        return ", ".join(catalogue.user_profile.subsets[action]) or "nothing"
    return catalogue.fill(catalogue.sentences(pattern)[action], domain)


def _choices(record: StepRecord, before: PromptSpec, catalogue: Catalogue, domain: str) -> dict[str, ChoiceView]:
    views: dict[str, ChoiceView] = {}
    for pattern in SENTENCE_PATTERNS:
        action: int | None = getattr(record.spec, pattern)
        if action is None:
            continue
        choice = record.choices.get(pattern)
        views[pattern] = ChoiceView(
            action=action,
            sentence_id=catalogue.sentences(pattern)[action].id,
            sentence=record.prompt.sentences[pattern],
            probability=choice.probability if choice else record.propensities.get(pattern),
            changed=getattr(before, pattern) != action,
        )
    others: dict[PatternName, bool] = {
        "history_records": before.history_length != record.spec.history_length,
        "user_profile": before.user_profile != record.spec.user_profile,
    }
    for name, changed in others.items():
        if choice := record.choices.get(name):
            views[name] = ChoiceView(
                action=choice.action,
                sentence_id=choice.sentence_id,
                sentence=choice_text(catalogue, domain, name, choice.action),
                probability=choice.probability,
                changed=changed,
            )
    drawn, length, subset = record.propensities, record.spec.history_length, record.spec.user_profile
    if "history_records" in drawn:  # a one-shot policy picks the length itself, not an increment
        views["history_records"] = ChoiceView(
            action=length,
            sentence_id=str(length),
            sentence=f"{length} interactions",
            probability=drawn["history_records"],
            changed=others["history_records"],
        )
    if "user_profile" not in views and (subset or "user_profile" in drawn):
        views["user_profile"] = ChoiceView(
            action=subset,
            sentence_id=catalogue.user_profile.ids[subset],
            sentence=choice_text(catalogue, domain, "user_profile", subset),
            probability=drawn.get("user_profile"),
            changed=others["user_profile"],
        )
    return views
