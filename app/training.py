"""`promptailor train`: learn a prompt policy on training users, select it on validation users, save it.

A training run can be killed anywhere. Run again with `--resume` it replays the answers it has already paid for and goes
on: the same policy, the same number of calls as an unbroken run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Console, ConsoleOptions, RenderResult

from promptailor.app.backends.budget import Budget
from promptailor.app.progress import progress_bar
from promptailor.app.run_folder import TrainingFolder
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace, open_store, train_inputs
from promptailor.graph.build import RankGraph
from promptailor.graph.context import Context
from promptailor.graph.rollout import GraphEvaluator, Progress
from promptailor.graph.state import TrainInput, TrainOutput
from promptailor.graph.train import Schedule, serve_greedily, train_stepwise
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import OneShotPolicy, PromptPolicy
from promptailor.policies.checkpoint import PolicyManifest
from promptailor.policies.enumeration import enumerate_prompts
from promptailor.policies.fusion import fit_weights
from promptailor.policies.random_search import random_search
from promptailor.prompts.errors import BudgetExceededError, DataError, SpecError
from promptailor.prompts.patterns import load_catalogue

VALIDATIONS = 2
"""Checkpoints that validation users choose from, evenly spread over training; the last one is the final policy."""
PAPER_PATIENCE = 7
"""Updates without a new best mean reward after which the paper stops (RPP, section 4.2)."""

Preset = Literal["default", "paper"]
Stopped = Literal["finished", "budget", "early"]


class TrainConfig(BaseModel):
    """Everything a training run depends on; `config.json` of its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    dataset: str
    model: str
    refiner: str | None = None
    users: int = 200
    validation_users: int = 100
    seed: int = 0
    preset: Preset = "default"
    n_candidates: int = 10
    calls: int = 3_000
    """User-steps to learn from, those on validation users included."""
    budget: str | None = None
    catalogue: Path | None = None


class TrainSummary(BaseModel):
    """What a training run did."""

    folder: Path
    policy: str
    stopped: Stopped
    n_steps: int
    """Calls per served request, chosen on validation users."""
    validation_reward: float | None
    """Mean NDCG of the served ranking on validation users; what was selected on, so it is optimistic."""
    user_steps: int
    llm_requests: int
    """Requests really sent, by every part of a resumed run; repeated prompts come from the response store."""
    encoder_calls: int
    """Texts that went through the sentence encoder in this process; a replay has none."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in two lines."""
        reward = "" if self.validation_reward is None else f", validation NDCG {self.validation_reward:.3f}"
        cost = f"{self.user_steps:,} user-steps, {self.llm_requests:,} requests"
        yield f"{self.policy}: {self.stopped} after {cost}{reward}"
        yield f"saved in {self.folder}; serves with {self.n_steps} step(s)"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run's parts, made once."""

    config: TrainConfig
    folder: TrainingFolder
    workspace: Workspace
    train: list[TrainInput]
    validation: list[TrainInput]
    context: Context

    @property
    def initial_length(self) -> int:
        """History length at t = 0."""
        return self.workspace.catalogue.history_records.initial_length

    def save(
        self,
        policy: PromptPolicy,
        *,
        n_steps: int,
        stopped: Stopped,
        user_steps: int,
        fusion_weights: tuple[float, ...] = (),
    ) -> None:
        """Save a policy with everything that is needed to load it safely."""
        workspace, config = self.workspace, self.config
        self.folder.save_policy(
            policy,
            PolicyManifest(
                name=config.policy,
                seed=config.seed,
                train_users=tuple(str(user.user_id) for user in self.train),
                validation_users=tuple(str(user.user_id) for user in self.validation),
                catalogue_digest=workspace.catalogue.digest,
                dataset=workspace.dataset.name,
                dataset_digest=workspace.dataset.digest,
                model=workspace.recommender.spec,
                refiner=workspace.refiner_port.spec if workspace.refiner_port else None,
                n_steps=n_steps,
                fusion_weights=fusion_weights,
                stopped=stopped,
                calls=user_steps,
            ),
            workspace.embeddings,
        )

    def finish(self, stopped: Stopped, n_steps: int, reward: float | None, user_steps: int) -> TrainSummary:
        """Say what was done."""
        return TrainSummary(
            folder=self.folder.path,
            policy=self.config.policy,
            stopped=stopped,
            n_steps=n_steps,
            validation_reward=reward,
            user_steps=user_steps,
            llm_requests=self.workspace.store.requests,
            encoder_calls=self.workspace.encoder.calls,
        )


def run_training_job(config: TrainConfig, out: Path, *, resume: bool) -> TrainSummary:
    """Train a policy.

    Raises:
        InputError: unknown names, a folder that holds another run, or a data set that lacks users.
    """
    try:
        trainer = _TRAINERS[config.policy]
    except KeyError:
        raise SpecError(f"--policy {config.policy!r}: unknown; there are {', '.join(_TRAINERS)}") from None
    folder = TrainingFolder.open(out, config.model_dump(mode="json"), resume=resume)
    store = open_store(out)
    refines = config.policy == "rpp+"
    workspace = Workspace(
        settings=Settings(),
        dataset_name=config.dataset,
        model=config.model,
        refiner=(config.refiner or config.model) if refines else None,
        seed=config.seed,
        catalogue=load_catalogue(config.catalogue),
        store=store,
        budget=Budget.parse(config.budget, used=store.requests),
    )
    split = workspace.split
    if config.users > len(split.train):
        raise DataError(f"--users {config.users}: {workspace.dataset.name} has {len(split.train)} training users")
    job = Job(
        config=config,
        folder=folder,
        workspace=workspace,
        train=train_inputs(workspace.cases(split.train[: config.users], config.n_candidates, config.seed)),
        validation=train_inputs(
            workspace.cases(split.validation[: config.validation_users], config.n_candidates, config.seed)
        ),
        context=Context(policy=config.policy, seed=config.seed, refine=refines),
    )
    with progress_bar(f"training {config.policy}", config.calls) as progress:
        return trainer(job, progress)


@dataclass(kw_only=True)
class Selection:
    """Keeps the checkpoint and the number of steps that served validation users best."""

    job: Job
    graph: RankGraph
    policy: PromptPolicy
    n_steps: int
    progress: Progress
    best: float | None = None
    best_steps: int = 0
    user_steps: int = 0
    """User-steps spent on validation so far."""

    @property
    def cost(self) -> int:
        """User-steps of one validation."""
        return len(self.job.validation) * self.n_steps

    def consider(self, training_steps: int, stopped: Stopped = "early") -> float:
        """Serve the validation users greedily; save the policy if it is the best so far; return its reward."""
        job = self.job
        outputs = serve_greedily(
            self.graph, job.validation, job.context, n_steps=self.n_steps, split="validation", progress=self.progress
        )
        self.user_steps += self.cost
        rewards = [mean(output.rewards[step] for output in outputs) for step in range(self.n_steps)]
        step = max(range(self.n_steps), key=lambda k: rewards[k])
        if self.best is None or rewards[step] > self.best:
            self.best, self.best_steps = rewards[step], step + 1
            job.save(
                self.policy,
                n_steps=step + 1,
                stopped=stopped,
                user_steps=training_steps + self.user_steps,
                fusion_weights=_fusion_weights(outputs, job.validation),
            )
        return rewards[step]


def _fusion_weights(outputs: Sequence[TrainOutput], users: Sequence[TrainInput]) -> tuple[float, ...]:
    """Learn what each step's ranking counts for when they are fused, from rankings that validation has paid for."""
    weights = fit_weights(
        [[[item.item_id for item in record.ranking] for record in output.trace] for output in outputs],
        [user.relevant_item_ids[0] for user in users],
        canonical_per_user=[[item.item_id for item in output.request.candidates] for output in outputs],
    )
    return tuple(weights)


def _train_rpp(job: Job, progress: Progress) -> TrainSummary:
    from promptailor.policies.a2c import A2C, A2CConfig  # noqa: PLC0415 - imports torch
    from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy  # noqa: PLC0415 - imports torch

    config, workspace = job.config, job.workspace
    paper = config.preset == "paper"
    learning = A2CConfig.paper() if paper else A2CConfig()
    policy = ReinforcedPolicy(
        PolicyConfig.paper() if paper else PolicyConfig(),
        workspace.catalogue,
        embeddings=workspace.embeddings,
        encoder=workspace.encoder,
        seed=config.seed,
    )
    graph = workspace.graph({config.policy: policy}, training=True)
    n_steps = learning.n_steps
    selection = Selection(job=job, graph=graph, policy=policy, n_steps=n_steps, progress=progress)
    schedule = Schedule(
        n_steps=n_steps,
        steps_per_update=learning.steps_per_update,
        users_per_update=min(learning.users_per_update, len(job.train)),
        calls=n_steps * len(job.train) if paper else config.calls - VALIDATIONS * selection.cost,
        patience=PAPER_PATIENCE if paper else None,
    )
    updates = train_stepwise(
        graph,
        A2C(policy, learning, seed=config.seed),
        job.train,
        job.context,
        schedule,
        initial_length=job.initial_length,
        progress=progress,
    )
    stopped: Stopped = "finished"
    marks = [schedule.calls * k // VALIDATIONS for k in range(1, VALIDATIONS)]
    calls = 0
    try:
        for update in updates:
            calls = update.calls
            due = bool(marks) and calls >= marks[0]
            marks = marks[due:]
            job.folder.log(update, selection.consider(calls) if due else None)
        selection.consider(calls, stopped)
    except BudgetExceededError:
        stopped = "budget"
        if selection.best is None:
            job.save(policy, n_steps=n_steps, stopped=stopped, user_steps=calls)
            selection.best_steps = n_steps
    return job.finish(stopped, selection.best_steps, selection.best, calls + selection.user_steps)


def _train_one_shot(job: Job, progress: Progress) -> TrainSummary:
    config, workspace = job.config, job.workspace
    evaluator = GraphEvaluator(
        graph=workspace.graph(training=True),
        inputs_by_user={str(user.user_id): user for user in job.train},
        context=Context(policy="manual", seed=config.seed, split="train"),
        initial_length=job.initial_length,
        progress=progress,
    )
    policy, stopped = _ONE_SHOT[config.policy](job, evaluator)
    job.save(policy, n_steps=1, stopped=stopped, user_steps=config.calls)
    return job.finish(stopped, 1, None, config.calls)


def _bandit(job: Job, evaluator: GraphEvaluator) -> tuple[OneShotPolicy, Stopped]:
    bandit = FactoredBandit(job.workspace.catalogue, job.workspace.embeddings)
    bandit.fit(evaluator, calls=job.config.calls, seed=job.config.seed)
    return bandit, bandit.stopped


def _enumeration(job: Job, evaluator: GraphEvaluator) -> tuple[OneShotPolicy, Stopped]:
    found = enumerate_prompts(evaluator, job.workspace.catalogue, calls=job.config.calls, seed=job.config.seed)
    return found, found.stopped


def _random_search(job: Job, evaluator: GraphEvaluator) -> tuple[OneShotPolicy, Stopped]:
    found = random_search(evaluator, job.workspace.catalogue, calls=job.config.calls, seed=job.config.seed)
    return found, found.stopped


_ONE_SHOT: dict[str, Callable[[Job, GraphEvaluator], tuple[OneShotPolicy, Stopped]]] = {
    "bandit": _bandit,
    "enumeration": _enumeration,
    "random-search": _random_search,
}
_TRAINERS: dict[str, Callable[[Job, Progress], TrainSummary]] = {
    "rpp": _train_rpp,
    "rpp+": _train_rpp,
    **dict.fromkeys(_ONE_SHOT, _train_one_shot),
}
