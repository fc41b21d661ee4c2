"""`promptailor feedback`: what users thought of answers: written out, learned from, other policies judged by it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.run_folder import CONFIG, EMBEDDINGS, POLICY
from promptailor.app.server.feedback_store import VotedAnswer, open_feedback
from promptailor.app.serving import parse_policies
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.evals.off_policy import LoggedReward, OffPolicyReport, estimate_policy
from promptailor.evals.records import write_text
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import OneShotPolicy, PromptPolicy
from promptailor.policies.checkpoint import PolicyManifest, save_policy
from promptailor.policies.draws import uniform
from promptailor.policies.manual import MANUAL, manual_policies
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.errors import DataError, InputError, SpecError
from promptailor.prompts.patterns import Catalogue, PatternName

LEARNED = "bandit"
MIN_ROWS = 50
"""Answers with votes that a policy is learned from at least."""


class Exported(BaseModel):
    """What `feedback export` wrote."""

    output: Path
    answers: int
    votes: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in one line."""
        yield f"{self.answers:,} answers with {self.votes:,} votes in {self.output}"


class Learned(BaseModel):
    """What `feedback learn` made."""

    folder: Path
    rows: int
    users: int
    mean_reward: float
    left_out: dict[str, int]
    """Answers that were not learned from, by reason."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in some lines."""
        yield f"learned from {self.rows:,} answers of {self.users:,} users, {self.mean_reward:.0%} of the votes up"
        yield from _left_out(self.left_out)
        yield f"saved in {self.folder}; serve it with --policy {LEARNED}={self.folder}"


class Estimated(BaseModel):
    """What `feedback estimate` found."""

    policy: str
    report: OffPolicyReport
    left_out: dict[str, int]
    """Answers that tell nothing about the policy, by reason."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the estimates as a table."""
        report = self.report
        table = Table("share of votes up", "mean", "95 % interval", box=None)
        table.add_row("as served", f"{report.logged.mean:.3f}", f"[{report.logged.low:.3f}, {report.logged.high:.3f}]")
        for name, found in report.estimates.items():
            table.add_row(f"{self.policy}, {name}", f"{found.mean:.3f}", f"[{found.low:.3f}, {found.high:.3f}]")
        yield table
        for name, reason in report.missing.items():
            yield f"{name}: {reason}"
        yield (
            f"{report.n_rows:,} answers of {report.n_users:,} users; both policies chose the same prompt"
            f" {report.n_matches:,} times, worth {report.effective_rows:.1f} rows"
        )
        yield from _left_out(self.left_out)


@dataclass
class _Log:
    """Answers that can be used, and how many cannot, by reason."""

    rows: list[VotedAnswer] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def export_feedback(output: Path, *, settings: Settings | None = None) -> Exported:
    """Write every answer with its votes as JSON Lines; the file appears whole or not at all."""
    exported = Exported(output=output, answers=0, votes=0)
    partial = output.with_name(output.name + ".partial")
    try:
        with open_feedback(settings or Settings()) as store, partial.open("w", encoding="utf-8") as file:
            for answer in store.read():
                file.write(answer.model_dump_json() + "\n")
                exported.answers += 1
                exported.votes += len(answer.votes)
        os.replace(partial, output)
    except OSError as error:
        raise InputError(f"--output {output}: {error.strerror}; free some space or name another file") from None
    finally:
        partial.unlink(missing_ok=True)
    return exported


def learn_from_feedback(
    out: Path, *, dataset: str, share: float, seed: int, settings: Settings | None = None
) -> Learned:
    """Learn a bandit from the votes and save it where `serve` loads it.

    Args:
        out: the policy's folder; must be new.
        dataset: whose item embeddings describe users.
        share: of the users that it learns from; the others are left to judge it by.
        seed: keys the bandit's draws.
        settings: the environment's where empty.

    Raises:
        InputError: the folder holds a run already.
        DataError: too few votes.
    """
    settings = settings or Settings()
    if (out / CONFIG).exists():
        raise InputError(f"--out {out}: already holds a run; name another folder")
    workspace = Workspace(settings=settings, dataset_name=dataset, model=None, seed=seed)
    log = _voted(settings, workspace.catalogue)
    rows = [row for row in log.rows if uniform("feedback share", row.user) < share]
    if len(rows) < MIN_ROWS:
        raise DataError(f"feedback: {len(rows)} answers with votes to learn from; collect {MIN_ROWS} or more")
    users = [row.user for row in rows]
    rewards = np.array([row.reward for row in rows], dtype=np.float64)
    bandit = FactoredBandit(PromptSpace(workspace.catalogue), workspace.embeddings)
    bandit.learn([row.inputs for row in rows], users, [row.spec for row in rows], rewards, seed)
    manifest = PolicyManifest(
        name=LEARNED,
        seed=seed,
        train_users=tuple(sorted(set(users))),
        catalogue_digest=workspace.catalogue.digest,
        dataset=workspace.dataset.name,
        dataset_digest=workspace.dataset.digest,
        model=Counter(row.model for row in rows).most_common(1)[0][0],
        n_steps=1,
        stopped="finished",
        calls=0,
    )
    out.mkdir(parents=True, exist_ok=True)
    save_policy(out / POLICY, bandit, manifest)
    workspace.embeddings.save(out / EMBEDDINGS)
    learned = Learned(
        folder=out,
        rows=len(rows),
        users=len(set(users)),
        mean_reward=float(rewards.mean()),
        left_out=dict(log.left_out),
    )
    write_text(out / CONFIG, learned.model_dump_json(indent=2, exclude={"folder"}) + "\n")
    return learned


def estimate_from_feedback(policy: str, *, dataset: str, seed: int, settings: Settings | None = None) -> Estimated:
    """Estimate how a policy, served greedily, would have been liked by those who voted on another one's answers.

    Args:
        policy: `NAME=FOLDER`, or `manual`; users it has learned from are left out.
        dataset: whose item embeddings describe users.
        seed: keys the intervals.
        settings: the environment's where empty.

    Raises:
        SpecError: no such policy, or one that does not choose a whole prompt at once.
        DataError: too few votes on answers that were drawn.
    """
    settings = settings or Settings()
    workspace = Workspace(settings=settings, dataset_name=dataset, model=None)
    other = _policy(policy, workspace)
    if not isinstance(other, OneShotPolicy):
        raise SpecError(f"--policy {policy}: chooses step by step, as answers come; name manual, bandit or enumeration")
    log = _voted(settings, workspace.catalogue)
    space, seen = PromptSpace(workspace.catalogue), set(other.info.train_users)
    rows: list[LoggedReward] = []
    for row in log.rows:
        if row.user in seen:
            log.left_out["the policy has learned from the user"] += 1
        elif not row.explored or len(row.steps) != 1 or row.propensity is None:
            log.left_out["not drawn by a policy of one step (serve with --explore and a bandit)"] += 1
        else:
            rows.append(_logged(row, other, space))
    return Estimated(
        policy=other.info.name, report=estimate_policy(rows, space, seed=seed), left_out=dict(log.left_out)
    )


def _policy(text: str, workspace: Workspace) -> PromptPolicy:
    folders = parse_policies(text)
    name = next(iter(folders), MANUAL)
    folder = folders.get(name)
    if folder is not None:
        return workspace.load_policy(folder)
    builtin = manual_policies(workspace.catalogue)
    if name not in builtin:
        raise SpecError(f"--policy {text}: write NAME=FOLDER, or {' or '.join(builtin)}")
    return builtin[name]


def _voted(settings: Settings, catalogue: Catalogue) -> _Log:
    """Read the answers that somebody voted on, in today's sentences."""
    log = _Log()
    with open_feedback(settings) as store:
        for row in store.read():
            if row.reward is None:
                log.left_out["no votes"] += 1
            elif not catalogue.reads(row.catalogue_digest):
                log.left_out["made with another catalogue of sentences"] += 1
            else:
                log.rows.append(row)
    return log


def _logged(row: VotedAnswer, other: OneShotPolicy, space: PromptSpace) -> LoggedReward:
    """Return a row as estimators read it; patterns that were not drawn count as certain."""
    assert row.reward is not None, "left out before"
    decided = other.choose(row.inputs, key=(), explore=False).spec
    logged, target = space.choice(row.spec), space.choice(decided)
    chances = [_chance(row, pattern) for pattern in space.patterns]
    return LoggedReward(
        user=row.user,
        choice=logged,
        propensities=tuple(chances),
        target=target,
        target_chances=tuple(float(a == b) for a, b in zip(logged, target, strict=True)),
        reward=row.reward,
    )


def _chance(row: VotedAnswer, pattern: PatternName) -> float:
    choice = row.steps[-1].get(pattern)
    return 1.0 if choice is None or choice.probability is None else choice.probability


def _left_out(reasons: dict[str, int]) -> Iterable[str]:
    return [f"left out: {count:,} answers, {reason}" for reason, count in sorted(reasons.items())]
