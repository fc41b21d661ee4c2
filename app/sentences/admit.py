"""`promptailor sentences admit`: what each proposed sentence does on users who had no part in it, and whether it stays.

A sentence takes the place of its pattern's present one in one prompt, and is tried in two ways on held-out users. Given
to everybody, against the present sentence. And as one more choice per user: a rule learned on training users
(`policies.suitability`) predicts for each user what every sentence of the pattern gains; the best predicted one is
served, with the new sentence among them or without. That is what a policy that chooses per user can make of it, beyond
what the catalogue has. Either test may admit it; alpha is spent over all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.store import ResponseStore
from promptailor.app.commit import current_commit
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.progress import progress_bar
from promptailor.app.projection import announce, project_trials
from promptailor.app.sentences.folder import (
    CATALOGUE,
    ProposalFile,
    SentencesConfig,
    count,
    read_config,
    read_proposals,
    write_proposals,
)
from promptailor.app.wiring import Workspace, open_store, train_inputs
from promptailor.evals.records import write_text
from promptailor.evals.sentences import LINEAGE_FILE, Admission, Extension, Gate
from promptailor.evals.types import EvalCase
from promptailor.graph.context import Context
from promptailor.graph.rollout import GraphEvaluator, Progress
from promptailor.policies.acceptance import AcceptanceTest
from promptailor.policies.bandit import leading_directions
from promptailor.policies.base import Trial
from promptailor.policies.manual import Stopped
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.suitability import learn_gains
from promptailor.prompts.errors import BudgetExceededError, InputError
from promptailor.prompts.llm import Split
from promptailor.prompts.patterns import Catalogue, PromptSpec, Sentence, SentencePattern, dump_catalogue
from promptailor.prompts.proposals import FAULTS, Proposal, judge_proposal, proposal_id

Array = NDArray[np.float64]
Ask = Callable[[Admission], bool]
"""Shows a person what a sentence did and returns the decision."""


class AdmitConfig(BaseModel):
    """How sentences are judged."""

    gate: Gate = "test"
    held_out: int = Field(200, ge=2)
    """Validation users that sentences are judged on; all there are where there are fewer."""
    samples: int = Field(1, ge=1)
    """Orders of the candidates that each user is shown, a call each."""
    alpha: float = 0.05
    """Chance that any useless sentence is admitted, over all of them."""
    budget: str | None = None


class AdmitSummary(BaseModel):
    """What was admitted."""

    folder: Path
    extension: Extension
    spent: Spending
    """On requests of every part of a resumed run."""
    cache_hits: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one row per sentence."""
        table = Table(box=None, header_style="bold")
        for column in ("sentence", "pattern", "for everybody", "p", "as one more choice", "p", "users", ""):
            table.add_column(column, no_wrap=True)
        for tried in self.extension.tried:
            table.add_row(
                tried.proposal.id,
                tried.proposal.pattern.replace("_", " "),
                f"{tried.everybody.difference:+.3f} [{tried.everybody.low:+.3f}, {tried.everybody.high:+.3f}]",
                f"{tried.everybody.p:.4f}",
                f"{tried.suited.difference:+.3f} [{tried.suited.low:+.3f}, {tried.suited.high:+.3f}]",
                f"{tried.suited.p:.4f}",
                f"{tried.share_suited:.0%}",
                "admitted" if tried.admitted else "",
                style="" if tried.admitted else "dim",
            )
        if self.extension.tried:
            yield table
        yield from (f"admitted: {tried.proposal.text}" for tried in self.extension.tried if tried.admitted)
        n_admitted, n = len(self.extension.admitted), len(self.extension.tried)
        yield f"{n_admitted} of {n} admitted by {self.extension.gate}; NDCG on {self.extension.held_out} held-out users"
        if self.extension.untried:
            yield f"not tried, {self.extension.stopped}: {', '.join(self.extension.untried)}"
        yield f"spent: {self.spent}; {self.cache_hits:,} answers from the store"
        yield f"catalogue: {self.folder / CATALOGUE}"


def describe_admission(tried: Admission) -> str:
    """Return what a person is asked about a sentence."""
    effects = {"for everybody": tried.everybody, f"as one more choice ({tried.share_suited:.0%})": tried.suited}
    said = [
        f"  {how}: {v.difference:+.3f} NDCG [{v.low:+.3f}, {v.high:+.3f}], p {v.p:.4f}" for how, v in effects.items()
    ]
    proposal = tried.proposal
    feedback = [f"  feedback: {proposal.feedback}"] if proposal.feedback else []
    return "\n".join([f"{proposal.pattern.replace('_', ' ')}: {proposal.text}", *said, *feedback, "Admit it?"])


def admit_sentences(
    out: Path,
    config: AdmitConfig,
    *,
    ask: Ask | None = None,
    budget: Budget | None = None,
    library: ResponseStore | None = None,
) -> AdmitSummary:
    """Try the proposals of a folder and write `catalogue.yaml` and `lineage.json`.

    It may be run again, with other settings too: what was paid for is not paid again, and persons are asked once.

    Args:
        out: the folder that `propose` wrote.
        config: how sentences are judged.
        ask: a person, for the gate `human`.
        budget: of a job that this is a part of; else the config's own.
        library: answers that the runs of such a job share.

    Raises:
        InputError: no proposals, or proposals for another catalogue.
        BudgetExceededError: it was spent before any sentence was tried.
    """
    made, file = read_config(out), read_proposals(out)
    store = open_store(out, library)
    budget = budget or Budget.parse(config.budget, used=store.spending)
    workspace = made.workspace(store, budget)
    if config.gate == "human" and ask is None:
        raise InputError("--gate human: needs a terminal; write decisions into proposals.yaml and take --gate review")
    if file.catalogue_digest != workspace.catalogue.digest:
        raise InputError(f"{out}: was proposed for another catalogue; propose again into another folder")
    config = config.model_copy(update={"held_out": min(config.held_out, len(workspace.split.validation))})
    fit, faults = _fit(file.proposals, workspace)
    file = file.model_copy(update={"proposals": tuple(fit)})
    menus = [len(workspace.catalogue.sentences(p)) - 1 for p in dict.fromkeys(proposal.pattern for proposal in fit)]
    trials = (len(fit) + 1 + sum(menus)) * (made.users + config.held_out) * config.samples
    with stop_on_interrupt(budget), progress_bar("trying sentences", trials) as progress:
        tryout = Tryout(made=made, config=config, workspace=workspace, progress=progress)
        if fit:
            announce("trying sentences", tryout.projected(trials), budget)
        tried, stopped = _try_all(fit, tryout)
    tried = _decide(tried, file, out, config.gate, ask)
    extension = _extension(made, config, workspace, file, tried, faults, stopped, tryout.frame)
    _write(out, workspace, extension)
    return AdmitSummary(folder=out, extension=extension, spent=store.spending, cache_hits=store.hits)


@dataclass(frozen=True, kw_only=True)
class Users:
    """Users whom sentences are tried on."""

    evaluator: GraphEvaluator
    samples: int
    features: Array
    """Shape (n_users, d)."""

    def rewards(self, frame: PromptSpec, sentences: Mapping[SentencePattern, str]) -> Array:
        """Return each user's mean NDCG over the samples, with sentences in the frame's place."""
        users = self.evaluator.user_ids
        trials = [
            Trial(user_id=user, spec=frame, sentences=sentences, sample_index=sample)
            for user in users
            for sample in range(self.samples)
        ]
        means: Array = np.array(self.evaluator.rewards(trials)).reshape(len(users), self.samples).mean(axis=1)
        return means


@dataclass(kw_only=True)
class Tryout:
    """The users, and what the frame alone does for them."""

    made: SentencesConfig
    config: AdmitConfig
    workspace: Workspace
    progress: Progress
    _known: dict[tuple[str, PromptSpec, str | None], Array] = field(default_factory=dict)

    @cached_property
    def frame(self) -> PromptSpec:
        """The prompt that sentences are put into."""
        return self.made.frame(self.workspace)

    @cached_property
    def _directions(self) -> Array:
        users = [user.request.history for user in self._cases("train")]
        return leading_directions(np.stack([self.workspace.embeddings.user(history) for history in users]))

    @cached_property
    def training(self) -> Users:
        """Those of whom it is learned whom a sentence suits."""
        return self._users("train")

    @cached_property
    def held_out(self) -> Users:
        """Those whom it is judged on."""
        return self._users("validation")

    def rewards(self, users: Users, pattern: SentencePattern, change: int | str | None = None) -> Array:
        """Return the users' rewards in the frame, or with another sentence of a pattern: by its place, or a new one."""
        spec = self.frame.model_copy(update={pattern: change}) if isinstance(change, int) else self.frame
        text = change if isinstance(change, str) else None
        key = (users.evaluator.context.split, spec, text)
        if key not in self._known:
            self._known[key] = users.rewards(spec, {pattern: text} if text else {})
        return self._known[key]

    def menu(self, pattern: SentencePattern) -> tuple[Array, Array]:
        """Return what choosing per user among the catalogue's sentences makes of a pattern, for held-out users.

        Returns:
            The gain predicted for the chosen sentence, and the reward it brings; each of shape (n_users,).
        """
        n = len(self.workspace.catalogue.sentences(pattern))
        others = [place for place in range(n) if place != getattr(self.frame, pattern)]
        predicted = [np.zeros(len(self.held_out.features)), *(self.predicted(pattern, place) for place in others)]
        rewards = [self.rewards(self.held_out, pattern, place) for place in (None, *others)]
        best = np.argmax(predicted, axis=0)
        everyone = np.arange(len(best))
        return np.array(predicted)[best, everyone], np.array(rewards)[best, everyone]

    def predicted(self, pattern: SentencePattern, change: int | str) -> Array:
        """Return what a sentence gains for held-out users by what it gained for training users, shape (n_users,)."""
        gains = self.rewards(self.training, pattern, change) - self.rewards(self.training, pattern)
        return learn_gains(self.training.features, gains).predict(self.held_out.features)

    def projected(self, trials: int) -> Spending:
        """Return what trials cost."""
        inputs = train_inputs(self._cases("train"))
        space = PromptSpace(self.workspace.catalogue)
        return project_trials(self.workspace, inputs, self._context("train"), space, user_steps=trials)

    def _users(self, split: Split) -> Users:
        cases = self._cases(split)
        evaluator = GraphEvaluator(
            graph=self.workspace.graph(training=True),
            inputs_by_user={case.user_id: user for case, user in zip(cases, train_inputs(cases), strict=True)},
            context=self._context(split),
            initial_length=self.workspace.catalogue.history_records.initial_length,
            progress=self.progress,
        )
        users = np.stack([self.workspace.embeddings.user(case.request.history) for case in cases])
        return Users(evaluator=evaluator, samples=self.config.samples, features=users @ self._directions)

    def _cases(self, split: Split) -> Sequence[EvalCase]:
        pools = self.workspace.split
        chosen = pools.train[: self.made.users] if split == "train" else pools.validation[: self.config.held_out]
        return self.workspace.cases(chosen, self.made.n_candidates, self.made.seed)

    def _context(self, split: Split) -> Context:
        return Context(policy="manual", seed=self.made.seed, split=split)


def _fit(proposals: Sequence[Proposal], workspace: Workspace) -> tuple[list[Proposal], list[str]]:
    """Return the proposals that still pass the guards, since the file may have been edited, and the others' faults."""
    fit: list[Proposal] = []
    faults: list[str] = []
    for proposal in proposals:
        found = judge_proposal(
            proposal.text,
            proposal.pattern,
            workspace.catalogue,
            domain=workspace.dataset.domain,
            known=[p.text for p in fit if p.pattern == proposal.pattern],
        )
        if found in FAULTS:
            faults.append(found)
        else:
            fit.append(proposal.model_copy(update={"id": proposal_id(found), "text": found}))
    return fit, faults


def _try_all(proposals: Sequence[Proposal], tryout: Tryout) -> tuple[list[Admission], Stopped]:
    """Try one sentence after another; a spent budget ends it with those tried so far."""
    test = AcceptanceTest(alpha=tryout.config.alpha, rounds=2 * len(proposals))
    tried: list[Admission] = []
    for proposal in proposals:
        try:
            tried.append(_try(proposal, tryout, test))
        except BudgetExceededError as error:
            if not tried:
                raise
            return tried, error.stopped
    return tried, "finished"


def _decide(tried: Sequence[Admission], file: ProposalFile, out: Path, gate: Gate, ask: Ask | None) -> list[Admission]:
    """Say which sentences are admitted; a person is asked about those not decided yet."""
    decided = []
    for admission in tried:
        if gate == "test":
            admitted = admission.everybody.accepted or admission.suited.accepted
        else:
            if gate == "human" and admission.proposal.admit is None:
                assert ask is not None, "the gate `human` comes with a person"
                file = _write_down(file, admission.proposal.id, ask(admission), out)
            admitted = any(p.admit is True for p in file.proposals if p.id == admission.proposal.id)
        decided.append(admission.model_copy(update={"admitted": admitted}))
    return decided


def _try(proposal: Proposal, tryout: Tryout, test: AcceptanceTest) -> Admission:
    pattern, text, users = proposal.pattern, proposal.text, tryout.held_out
    present, new = tryout.rewards(users, pattern), tryout.rewards(users, pattern, text)
    predicted, chosen = tryout.menu(pattern)
    suits = tryout.predicted(pattern, text) > predicted
    seed = tryout.made.seed
    return Admission(
        proposal=proposal,
        everybody=test.judge(present.tolist(), new.tolist(), key=(seed, proposal.id, "everybody")),
        suited=test.judge(chosen.tolist(), np.where(suits, new, chosen).tolist(), key=(seed, proposal.id, "suited")),
        share_suited=float(suits.mean()),
    )


def _write_down(file: ProposalFile, proposal_id: str, admit: bool, out: Path) -> ProposalFile:
    """Write a person's decision down before anything is made of it."""
    kept = tuple(p.model_copy(update={"admit": admit}) if p.id == proposal_id else p for p in file.proposals)
    file = file.model_copy(update={"proposals": kept})
    write_proposals(out, file)
    return file


def _extension(
    made: SentencesConfig,
    config: AdmitConfig,
    workspace: Workspace,
    file: ProposalFile,
    tried: Sequence[Admission],
    faults: Sequence[str],
    stopped: Stopped,
    frame: PromptSpec,
) -> Extension:
    dropped = dict(file.dropped)
    for reason, n in count(faults).items():
        dropped[reason] = dropped.get(reason, 0) + n
    reached = {admission.proposal.id for admission in tried}
    return Extension(
        grown_from=workspace.catalogue.digest,
        digest=_extended(workspace, tried).digest,
        dataset=workspace.dataset.name,
        model=workspace.recommender.spec,
        critic=workspace.refiner_port.spec if file.critiques and workspace.refiner_port else None,
        frame=frame,
        gate=config.gate,
        alpha=config.alpha,
        train_users=made.users,
        held_out=config.held_out,
        samples=config.samples,
        critiques=file.critiques,
        dropped=dropped,
        tried=tuple(tried),
        untried=tuple(p.id for p in file.proposals if p.id not in reached) if stopped != "finished" else (),
        stopped=stopped,
        llm_calls=workspace.store.requests,
        command=" ".join(["promptailor", *sys.argv[1:]]),
        commit=current_commit(),
    )


def _extended(workspace: Workspace, tried: Sequence[Admission]) -> Catalogue:
    """Return the catalogue with the admitted sentences; itself where there is none."""
    added: dict[SentencePattern, list[Sentence]] = {}
    for admission in tried:
        if admission.admitted:
            added.setdefault(admission.proposal.pattern, []).append(admission.proposal.sentence)
    return workspace.catalogue.extended(added) if added else workspace.catalogue


def _write(out: Path, workspace: Workspace, extension: Extension) -> None:
    """Write the catalogue first: a lineage never speaks of one that is not there."""
    head = (
        f"# Extended by `promptailor sentences admit`; {LINEAGE_FILE} beside it says where its sentences come from.\n"
    )
    write_text(out / CATALOGUE, head + dump_catalogue(_extended(workspace, extension.tried)))
    write_text(out / LINEAGE_FILE, extension.model_dump_json(indent=2) + "\n")
