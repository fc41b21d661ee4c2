"""`promptailor sentences propose`: a critic sees where a prompt ranked what training users chose, and writes sentences.

Feedback comes from training users' second-to-last items, as AGP's does; nobody who validates or tests has a part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.store import ResponseStore
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.progress import progress_bar
from promptailor.app.projection import announce, project_trials
from promptailor.app.run_folder import TrainingFolder
from promptailor.app.sentences.folder import (
    CRITIC,
    PARAPHRASE,
    PROPOSALS,
    ProposalFile,
    SentencesConfig,
    count,
    read_sentences,
    with_decisions,
    write_proposals,
)
from promptailor.app.wiring import Workspace, open_store, train_inputs
from promptailor.evals.protocol import make_cases
from promptailor.graph.context import Context
from promptailor.graph.rollout import Progress, complete_all, run_training
from promptailor.graph.state import TrainInput, TrainOutput
from promptailor.policies.manual import Stopped
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.errors import BudgetExceededError, DataError, InputError
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.patterns import PromptSpec, SentencePattern
from promptailor.prompts.phrases import refill
from promptailor.prompts.proposals import (
    FAULTS,
    Outcome,
    Proposal,
    critique_messages,
    judge_proposal,
    proposal_id,
    read_critique,
)
from promptailor.prompts.refine import accept_refinement, refine_messages

_PARAPHRASES = 3
"""Rewrites of each sentence that are asked for at most, where paraphrases are proposed."""


class ProposeSummary(BaseModel):
    """What was proposed."""

    folder: Path
    proposals: tuple[Proposal, ...]
    critiques: int
    """Answers of the critic that were read."""
    dropped: dict[str, int]
    """Sentences that a guard kept out, by its reason."""
    stopped: Stopped
    spent: Spending
    """On requests of every part of a resumed run."""
    cache_hits: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """List the sentences."""
        for proposal in self.proposals:
            yield f"{proposal.id}  {proposal.pattern.replace('_', ' ')}: {proposal.text}"
        reasons = ", ".join(f"{reason.replace('_', ' ')} {n}" for reason, n in self.dropped.items())
        kept_out = f"; kept out by the guards: {reasons}" if reasons else ""
        yield f"{len(self.proposals)} proposed in {self.critiques} critiques{kept_out}"
        yield f"spent: {self.spent}; {self.cache_hits:,} answers from the store; {self.stopped}"
        yield f"{self.folder / PROPOSALS}; next: promptailor sentences admit --out {self.folder}"


def propose_sentences(
    config: SentencesConfig,
    out: Path,
    *,
    resume: bool,
    budget: Budget | None = None,
    library: ResponseStore | None = None,
) -> ProposeSummary:
    """Propose sentences and write `proposals.yaml`; decisions that stand in it already are kept.

    Args:
        config: every setting.
        out: the folder.
        resume: go on with the run that the folder holds.
        budget: of a job that this is a part of; else the config's own.
        library: answers that the runs of such a job share.

    Raises:
        InputError: unknown names, a data set with fewer users, or a folder that holds another run.
    """
    store = open_store(out, library)
    budget = budget or Budget.parse(config.budget, used=store.spending)
    workspace = config.workspace(store, budget)
    train = workspace.split.train
    if config.users > len(train):
        raise DataError(f"--users {config.users}: {workspace.dataset.name} has {len(train)} training users")
    frame = config.frame(workspace)
    workspace.resources()  # every name is resolved before anything is written
    own = read_sentences(Path(config.source)) if config.source not in (CRITIC, PARAPHRASE) else None
    folder = TrainingFolder.open(out, config.model_dump(mode="json", exclude={"budget"}), resume=resume)
    collected = _Collected(workspace=workspace, wanted=config.proposals)
    stopped: Stopped = "finished"
    try:
        with stop_on_interrupt(budget), progress_bar("proposing sentences", None) as progress:
            if own is not None:
                for pattern, texts in own.items():
                    collected.add(pattern, texts, source=config.source)
            elif config.source == PARAPHRASE:
                _paraphrase(config, workspace, collected, progress)
            else:
                _criticise(config, workspace, frame, collected, progress)
    except BudgetExceededError as error:
        stopped = error.stopped
    except InputError:
        if not store.requests:
            folder.withdraw()
        raise
    file = with_decisions(collected.file, out)
    write_proposals(out, file)
    return ProposeSummary(
        folder=out,
        proposals=file.proposals,
        critiques=file.critiques,
        dropped=file.dropped,
        stopped=stopped,
        spent=store.spending,
        cache_hits=store.hits,
    )


@dataclass(kw_only=True)
class _Collected:
    """The sentences that passed the guards so far."""

    workspace: Workspace
    wanted: int
    proposals: list[Proposal] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    critiques: int = 0

    @property
    def enough(self) -> bool:
        """Whether no more are wanted."""
        return len(self.proposals) >= self.wanted

    @property
    def file(self) -> ProposalFile:
        """What was collected, to be written."""
        return ProposalFile(
            catalogue_digest=self.workspace.catalogue.digest,
            critiques=self.critiques,
            dropped=count(self.faults),
            proposals=tuple(self.proposals),
        )

    def add(
        self,
        pattern: SentencePattern,
        texts: Iterable[str],
        *,
        source: str,
        feedback: str = "",
        titles: Sequence[str] = (),
        instruction: str = "",
    ) -> None:
        """Take what passes the guards, up to the number that is wanted, and count the rest by reason."""
        for text in texts:
            if self.enough:
                return
            found = judge_proposal(
                text,
                pattern,
                self.workspace.catalogue,
                domain=self.workspace.dataset.domain,
                titles=titles,
                known=[p.text for p in self.proposals if p.pattern == pattern],
                instruction=instruction,
            )
            if found in FAULTS:
                self.faults.append(found)
            else:
                proposal = Proposal(
                    id=proposal_id(found), pattern=pattern, text=found, source=source, feedback=feedback
                )
                self.proposals.append(proposal)


def _criticise(
    config: SentencesConfig, workspace: Workspace, frame: PromptSpec, collected: _Collected, progress: Progress
) -> None:
    """Rank for one batch of users after another, and ask the critic about each pattern."""
    critic = workspace.refiner_port
    assert critic is not None, "`SentencesConfig.workspace` names one"
    users = _feedback_users(config, workspace)
    context = Context(policy="manual", seed=config.seed, split="train")
    projected = project_trials(workspace, users, context, PromptSpace(workspace.catalogue), user_steps=len(users))
    announce("proposing sentences", projected, workspace.budget)
    graph, domain = workspace.graph(training=True), workspace.dataset.domain
    for start in range(0, len(users), config.batch):
        if collected.enough:
            return
        batch = [user.model_copy(update={"trial": frame}) for user in users[start : start + config.batch]]
        outputs = run_training(graph, batch, context, n_steps=1, progress=progress)
        outcomes = [_outcome(output, user) for output, user in zip(outputs, batch, strict=True)]
        if all(outcome.place == 1 for outcome in outcomes):
            continue
        calls = {
            pattern: ModelCall(
                messages=critique_messages(
                    pattern, frame, outcomes, workspace.catalogue, domain=domain, n_new=config.per_critique
                ),
                split="train",
            )
            for pattern in config.patterns
        }
        answers = complete_all(critic, list(calls.values()), progress)
        for (pattern, call), answer in zip(calls.items(), answers, strict=True):
            _take(answer, pattern, call, outcomes, collected, config.per_critique)


def _take(
    answer: Completion,
    pattern: SentencePattern,
    call: ModelCall,
    outcomes: Sequence[Outcome],
    collected: _Collected,
    n_new: int,
) -> None:
    critique = read_critique(answer.text, n_new=n_new)
    collected.critiques += 1
    if not critique.sentences:
        collected.faults.append("unreadable")
    collected.add(
        pattern,
        critique.sentences,
        source=answer.model,
        feedback=critique.feedback,
        titles=[title for outcome in outcomes for title in outcome.titles],
        instruction=call.messages[-1].content,
    )


def _paraphrase(config: SentencesConfig, workspace: Workspace, collected: _Collected, progress: Progress) -> None:
    """Have the sentences rewritten, as RPP+ does; for models that can rewrite and not criticise."""
    refiner, catalogue = workspace.refiner_port, workspace.catalogue
    assert refiner is not None, "`SentencesConfig.workspace` names one"
    words = catalogue.words(workspace.dataset.domain)
    announce("proposing sentences", Spending(calls=_PARAPHRASES * len(list(_in_turn(config, workspace)))), Budget())
    for sample in range(_PARAPHRASES):
        for pattern, template in _in_turn(config, workspace):
            if collected.enough:
                return
            filled = template.format_map(words)
            call = ModelCall(messages=refine_messages(filled, catalogue), split="train", sample_index=sample)
            answer = refiner.complete(call)
            progress(1)
            verdict = accept_refinement(
                filled, answer.text, words=words, encoder=workspace.encoder, instruction=catalogue.refine.text
            )
            collected.critiques += 1
            if verdict.text is None:
                collected.faults.append(str(verdict.reason))
            else:
                rewritten = refill(verdict.text, template, words)
                collected.add(pattern, [rewritten], source=answer.model, feedback=f"rewritten: {template}")


def _in_turn(config: SentencesConfig, workspace: Workspace) -> Iterator[tuple[SentencePattern, str]]:
    """Yield every sentence, the patterns taking turns."""
    columns = [[(p, s.text) for s in workspace.catalogue.sentences(p)] for p in config.patterns]
    for row in zip_longest(*columns):
        yield from (pair for pair in row if pair is not None)


def _feedback_users(config: SentencesConfig, workspace: Workspace) -> list[TrainInput]:
    cases = make_cases(
        workspace.dataset,
        workspace.split.train[: config.users],
        n_candidates=config.n_candidates,
        seed=config.seed,
        hold_out="second_last",
    )
    return train_inputs(cases)


def _outcome(output: TrainOutput, user: TrainInput) -> Outcome:
    ranking = output.trace[-1].ranking
    place = next(n for n, item in enumerate(ranking, 1) if item.item_id in user.relevant_item_ids)
    return Outcome(
        place=place,
        n_candidates=len(ranking),
        title=ranking[place - 1].title,
        first=ranking[0].title,
        recent=tuple(item.title for item in output.request.history),
    )
