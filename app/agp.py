"""`promptailor train --policy agp`: improve the instruction that user profiles are written by.

The stages of a run (rankings, summaries, feedback) have a share of its calls and of its budget each, so none starves
the others. Items are summarised when a prompt first shows them; where that share is spent, the rest stays without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.stage import Stage, StagePort
from promptailor.app.job import AgpConfig, Job, TrainSummary
from promptailor.app.projection import SAMPLE_USERS, CountingPort, announce
from promptailor.evals.records import write_text
from promptailor.evals.statistics import estimate
from promptailor.graph.guiding import POLICY, Guiding, guided_policy, improve
from promptailor.graph.rollout import Progress, complete_all
from promptailor.graph.state import TrainInput
from promptailor.policies.lineage import LINEAGE_FILE, Lineage, PromptVersion, read_lineage
from promptailor.policies.manual import Stopped
from promptailor.policies.profiling import Profiling
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import BudgetExceededError, InputError
from promptailor.prompts.guidance import Guidance, Subject
from promptailor.prompts.patterns import Catalogue
from promptailor.prompts.profiles import parse_summary, shown_items, summary_call

SHARES: Mapping[str, float] = {"rankings": 0.6, "summaries": 0.3, "feedback": 0.1}
"""Of a run's calls and budget; without summaries, the others have theirs in proportion."""


@dataclass(kw_only=True)
class Summaries:
    """Items are summarised as users come up, each once, until the stage's share is spent."""

    port: StagePort
    catalogue: Catalogue
    guidance: Guidance
    domain: str
    n_history: int
    """Most recent items of a user that prompts show with a summary."""
    written: dict[str, str | None] = field(default_factory=dict)
    """By item id; None where the answer could not be read, or the share was spent."""

    def describe(self, users: Sequence[TrainInput]) -> Sequence[TrainInput]:
        """Return the users with their items' summaries."""
        shown = (
            item
            for user in users
            for item in shown_items(_items(user.history), _items(user.candidates), self.n_history)
        )
        items = [item for item in {i.item_id: i for i in shown}.values() if item.item_id not in self.written]
        affordable = items[: self.port.stage.left]
        calls = [summary_call(item, self.domain, self.catalogue, self.guidance) for item in affordable]
        answers = complete_all(self.port, calls)
        self.written |= {item.item_id: None for item in items}
        self.written |= {i.item_id: parse_summary(answer.text) for i, answer in zip(affordable, answers, strict=True)}
        return [
            user.model_copy(
                update={"history": self._described(user.history), "candidates": self._described(user.candidates)}
            )
            for user in users
        ]

    def _described(self, items: Sequence[Item | str]) -> list[Item]:
        return [
            item.model_copy(update={"summary": text}) if (text := self.written.get(item.item_id)) else item
            for item in _items(items)
        ]


def train_agp(job: Job, progress: Progress) -> TrainSummary:
    """Improve one instruction on training users, judged on validation users; write every version as it comes."""
    config, workspace, agp = job.config, job.workspace, job.config.agp or AgpConfig()
    subject: Subject = "profile" if agp.profile else "rerank"
    stages = _stages(job, agp, workspace.budget)
    profiler, critic = workspace.role_port(agp.profiler), workspace.role_port(agp.critic)
    profiling = Profiling(
        sequence_length=agp.sequence_length, summaries=agp.summaries, profiler=profiler.spec if agp.profiler else None
    )
    resources = workspace.resources()
    guiding = Guiding(
        resources=replace(
            resources,
            recommender=StagePort(port=workspace.recommender, stage=stages["rankings"]),
            profilers={POLICY: StagePort(port=profiler, stage=stages["rankings"])},
        ),
        critic=StagePort(port=critic, stage=stages["feedback"]),
        context=job.context,
        profiling=profiling,
        subject=subject,
        batch=agp.batch,
        position=agp.position_feedback,
        accept=agp.accept,
        patience=agp.patience,
        progress=progress,
    )
    first = resources.guidance.first(subject)
    projected = _project(guiding, job, first)
    announce("training agp, at most", projected, workspace.budget)
    if agp.summaries:
        summaries = Summaries(
            port=StagePort(port=profiler, stage=stages["summaries"]),
            catalogue=resources.catalogue,
            guidance=resources.guidance,
            domain=resources.domain,
            n_history=agp.sequence_length if agp.profile else 0,
        )
        guiding = replace(guiding, describe=summaries.describe)
    per_user = 2 if agp.profile else 1
    least = per_user * (agp.batch + 2 * (agp.batch if agp.accept == "paper" else len(job.validation)))
    if (most := _stages(job, agp, Budget())["rankings"].left) < least:
        raise InputError(f"--calls {config.calls}: rankings have {most} of them; a round takes {least}")

    pinned = _pinned(job)
    lineage = _write(job, Lineage(subject=subject, versions=(PromptVersion(number=0, text=first),)), pinned)
    rounds = improve(
        guiding,
        lineage.pin(None),
        job.train,
        job.validation,
        affords=lambda n: stages["rankings"].left >= per_user * n,
        spent=lambda: _spent(stages),
    )
    stopped: Stopped | None = None
    while stopped is None:
        try:
            learned = next(rounds)
        except StopIteration as end:
            stopped = "budget" if end.value == "finished" and _is_short(workspace.budget, config.calls) else end.value
        except BudgetExceededError as error:
            stopped = error.stopped
        else:
            lineage = _write(job, learned, pinned)
            version = learned.versions[-1]
            epoch = 1 + (len(learned.versions) - 2) * agp.batch // len(job.train)
            job.folder.log_round(version, _held_out(version, agp), epoch)
    job.save(
        guided_policy(workspace.catalogue, profiling, subject, lineage.instruction),
        n_steps=1,
        stopped=stopped,
        user_steps=_spent(stages),
        lineage=lineage,
    )
    judged = next((found for v in reversed(lineage.versions) if v.accepted and (found := _held_out(v, agp))), None)
    told = _beside_manual(guiding, lineage.instruction, job.validation) if stopped in ("finished", "early") else None
    summary = job.finish(stopped, 1, judged, _spent(stages), projected)
    return summary.model_copy(update={"notes": (told,) if told else ()})


def _beside_manual(guiding: Guiding, instruction: str, users: Sequence[TrainInput]) -> str | None:
    """Say how the instruction does beside the prompt without it, on validation users; None where the calls are spent.

    AGP compares instructions with each other only, and a small model can lose more by a profile than it learns from it.
    """
    try:
        with_it, without = (
            np.array([user.reward for user in guiding.rank(text, users, "validation")]) for text in (instruction, None)
        )
    except BudgetExceededError:
        return None
    gain = estimate(with_it - without, key=("agp beside manual", guiding.context.seed))
    told = (
        f"validation NDCG: {with_it.mean():.3f} by the learned instruction, {without.mean():.3f} by the manual prompt; "
        f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    )
    loses = f"{told}: it costs this model more than it tells it; serve manual, or name a larger --model"
    return loses if gain.high < 0 else told


def _held_out(version: PromptVersion, agp: AgpConfig) -> float | None:
    """Return the mean NDCG of held-out users with a version; None where it was judged otherwise, or not at all."""
    return version.verdict.after if version.verdict and agp.accept == "test" else None


def _is_short(budget: Budget, calls: int) -> bool:
    """Whether it may be the budget, and not the number of calls, that has let the last stage begin no further round."""
    return budget.counts_tokens or (budget.calls is not None and budget.calls < calls)


def _stages(job: Job, agp: AgpConfig, budget: Budget) -> dict[str, Stage]:
    wanted = {name: share for name, share in SHARES.items() if agp.summaries or name != "summaries"}
    whole = sum(wanted.values())
    return {name: Stage.of(name, share / whole, job.config.calls, budget) for name, share in wanted.items()}


def _spent(stages: Mapping[str, Stage]) -> int:
    return sum(stage.used.calls for stage in stages.values())


def _project(guiding: Guiding, job: Job, instruction: str) -> Spending:
    """Project the run as if every call were like those that rank for a few users; no run asks for more calls."""
    counter, sample = CountingPort(port=job.workspace.recommender), job.train[:SAMPLE_USERS]
    resources = replace(guiding.resources, recommender=counter, profilers={})
    replace(guiding, resources=resources, progress=None).rank(instruction, sample, "train")
    seen = sum(counter.rewritten.values(), counter.ranked)
    scale = job.config.calls / seen.calls
    return Spending(calls=job.config.calls, tokens=round(scale * seen.tokens), usd=scale * seen.usd)


def _pinned(job: Job) -> int | None:
    """Return the version that somebody pinned before the run was resumed."""
    return read_lineage(job.folder.path).pinned if (job.folder.path / LINEAGE_FILE).exists() else None


def _write(job: Job, lineage: Lineage, pinned: int | None) -> Lineage:
    """Write the versions so far; a pinned one is served as soon as the replay has come to it."""
    if pinned is not None and pinned < len(lineage.versions):
        lineage = lineage.pin(pinned)
    write_text(job.folder.path / LINEAGE_FILE, lineage.model_dump_json(indent=2) + "\n")
    return lineage


def _items(items: Sequence[Item | str]) -> list[Item]:
    return [item for item in items if isinstance(item, Item)]
