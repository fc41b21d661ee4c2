"""How each kind of policy is learned; the settings and parts of a run are in `app.job`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING

from promptailor.app.agp import train_agp
from promptailor.app.job import Job, Preset, TrainConfig, TrainSummary
from promptailor.app.projection import announce, project_episodes, project_trials
from promptailor.app.triggers import train_triggers
from promptailor.graph.build import RankGraph
from promptailor.graph.rollout import GraphEvaluator, Progress
from promptailor.graph.state import TrainInput, TrainOutput
from promptailor.graph.train import Schedule, serve_greedily, train_stepwise
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import OneShotPolicy, PromptEvaluator, PromptPolicy
from promptailor.policies.enumeration import enumerate_prompts
from promptailor.policies.fusion import fit_weights
from promptailor.policies.grips import search_one_prompt
from promptailor.policies.manual import Stopped
from promptailor.policies.pap_rec.policy import NAME as PAP_REC
from promptailor.policies.random_search import random_search
from promptailor.policies.returns import Objective, serving_steps
from promptailor.prompts.errors import BudgetExceededError, InputError, SpecError

if TYPE_CHECKING:
    from promptailor.policies.a2c import A2CConfig
    from promptailor.policies.actor_critic import PolicyConfig, Team

PPO: Mapping[str, Team] = {"ppo-1": "joint", "ppo-4": "heads"}
"""RPP without its team: one actor with one critic, trained by proximal policy optimisation (RPP, section 4.5)."""
VALIDATIONS = 2
"""Checkpoints that validation users choose from, evenly spread over training; the last one is the final policy."""
PAPER_PATIENCE = 7
"""Updates without a new best mean reward after which the paper stops (RPP, section 4.2)."""


@dataclass(kw_only=True)
class Selection:
    """Keeps the checkpoint that served validation users best, and the number of steps to serve it with."""

    job: Job
    graph: RankGraph
    policy: PromptPolicy
    n_steps: int
    objective: Objective
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
        n_steps = serving_steps([output.rewards for output in outputs], self.objective)
        reward = mean(output.rewards[n_steps - 1] for output in outputs)
        if self.best is None or reward > self.best:
            self.best, self.best_steps = reward, n_steps
            job.save(
                self.policy,
                n_steps=n_steps,
                stopped=stopped,
                user_steps=training_steps + self.user_steps,
                fusion_weights=_fusion_weights(outputs, job.validation),
            )
        return reward


def _fusion_weights(outputs: Sequence[TrainOutput], users: Sequence[TrainInput]) -> tuple[float, ...]:
    """Learn what each step's ranking counts for when they are fused, from rankings that validation has paid for."""
    weights = fit_weights(
        [[[item.item_id for item in record.ranking] for record in output.trace] for output in outputs],
        [user.relevant_item_ids[0] for user in users],
        canonical_per_user=[[item.item_id for item in output.request.candidates] for output in outputs],
    )
    return tuple(weights)


def reinforced_settings(config: TrainConfig) -> tuple[PolicyConfig, A2CConfig]:
    """Return what a stepwise policy is made of and how it learns: the preset's settings and what was asked for."""
    from promptailor.policies.a2c import A2CConfig  # noqa: PLC0415 - imports torch
    from promptailor.policies.actor_critic import PolicyConfig  # noqa: PLC0415 - imports torch

    presets: dict[Preset, tuple[PolicyConfig, A2CConfig]] = {
        "default": (PolicyConfig(), A2CConfig()),
        "on-policy": (PolicyConfig(critic="value"), A2CConfig.on_policy()),
        "paper": (PolicyConfig.paper(), A2CConfig.paper()),
    }
    design, learning = presets[config.preset]
    if config.policy in PPO:
        design = replace(design, team=PPO[config.policy], critic="value")
        learning = learning.clipped() if config.preset == "paper" else A2CConfig.on_policy()
    design = replace(design, personalised=config.patterns, sentences=config.sentences)
    if config.reward_from:
        design = replace(design, pooling="none")
    if config.pooling:
        design = replace(design, pooling=config.pooling)
    if config.state:
        design = replace(design, state=config.state)
    if config.objective:
        learning = replace(learning, objective=config.objective)
    if config.steps:
        learning = learning.over(config.steps)
    return design, learning


def _train_stepwise(job: Job, progress: Progress) -> TrainSummary:
    from promptailor.policies.a2c import A2C  # noqa: PLC0415 - imports torch
    from promptailor.policies.actor_critic import ReinforcedPolicy  # noqa: PLC0415 - imports torch

    config, workspace = job.config, job.workspace
    paper = config.preset == "paper"
    design, learning = reinforced_settings(config)
    policy = ReinforcedPolicy(
        design,
        workspace.catalogue,
        embeddings=workspace.embeddings,
        encoder=workspace.encoder,
        seed=config.seed,
    )
    graph = workspace.graph({config.policy: policy}, training=True)
    n_steps = learning.n_steps
    selection = Selection(
        job=job, graph=graph, policy=policy, n_steps=n_steps, objective=learning.objective, progress=progress
    )
    schedule = Schedule(
        n_steps=n_steps,
        steps_per_update=learning.steps_per_update,
        users_per_update=min(learning.users_per_update, len(job.train)),
        calls=n_steps * len(job.train) if paper else config.calls - VALIDATIONS * selection.cost,
        patience=PAPER_PATIENCE if paper else None,
    )
    if schedule.calls < schedule.users_per_update * schedule.steps_per_update:
        least = VALIDATIONS * selection.cost + schedule.users_per_update * schedule.steps_per_update
        raise InputError(f"--calls {config.calls}: one update and {VALIDATIONS} validations take {least}; give more")
    projected = project_episodes(
        workspace,
        policy,
        job.train,
        job.context,
        n_steps=n_steps,
        user_steps=schedule.planned(len(job.train)) + VALIDATIONS * selection.cost,
    )
    announce(f"training {config.policy}", projected, workspace.budget)
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
    except BudgetExceededError as error:
        stopped = error.stopped
        if selection.best is None:
            job.save(policy, n_steps=n_steps, stopped=stopped, user_steps=calls)
            selection.best_steps = n_steps
        else:
            job.folder.mark(stopped)
    return job.finish(stopped, selection.best_steps, selection.best, calls + selection.user_steps, projected)


def _train_one_shot(job: Job, progress: Progress) -> TrainSummary:
    config, workspace = job.config, job.workspace
    user_steps = 0

    def count(steps: int) -> None:
        nonlocal user_steps
        user_steps += steps
        progress(steps)

    evaluator = GraphEvaluator(
        graph=workspace.graph(training=True),
        inputs_by_user={str(user.user_id): user for user in job.train},
        context=job.context.model_copy(update={"policy": "manual", "split": "train"}),
        initial_length=job.initial_length,
        progress=count,
        record=job.folder.log_rewards,
    )
    projected = project_trials(workspace, job.train, evaluator.context, job.space, user_steps=config.calls)
    announce(f"training {config.policy}", projected, workspace.budget)
    policy, stopped = ONE_SHOT[config.policy](job, evaluator)
    job.save(policy, n_steps=1, stopped=stopped, user_steps=user_steps)
    return job.finish(stopped, 1, None, user_steps, projected)


def _bandit(job: Job, evaluator: PromptEvaluator) -> tuple[OneShotPolicy, Stopped]:
    bandit = FactoredBandit(job.space, job.workspace.embeddings)
    bandit.fit(evaluator, calls=job.config.calls, seed=job.config.seed)
    return bandit, bandit.stopped


def _enumeration(job: Job, evaluator: PromptEvaluator) -> tuple[OneShotPolicy, Stopped]:
    found = enumerate_prompts(evaluator, job.space, calls=job.config.calls, seed=job.config.seed)
    return found, found.stopped


def _random_search(job: Job, evaluator: PromptEvaluator) -> tuple[OneShotPolicy, Stopped]:
    found = random_search(evaluator, job.space, calls=job.config.calls, seed=job.config.seed)
    return found, found.stopped


def _grips(job: Job, evaluator: PromptEvaluator) -> tuple[OneShotPolicy, Stopped]:
    found = search_one_prompt(evaluator, job.workspace.catalogue, calls=job.config.calls, seed=job.config.seed)
    return found, found.stopped


ONE_SHOT: dict[str, Callable[[Job, PromptEvaluator], tuple[OneShotPolicy, Stopped]]] = {
    "bandit": _bandit,
    "enumeration": _enumeration,
    "random-search": _random_search,
    "grips": _grips,
}
_STEPWISE = ("rpp", "rpp+", *PPO)
TRAINERS: dict[str, Callable[[Job, Progress], TrainSummary]] = {
    **dict.fromkeys(_STEPWISE, _train_stepwise),
    **dict.fromkeys(ONE_SHOT, _train_one_shot),
    PAP_REC: train_triggers,
    "agp": train_agp,
}

CATALOGUE_POLICIES = (*_STEPWISE, "bandit", "enumeration", "random-search")
"""Those that choose among the catalogue's sentences, as they stand there."""
_SPACE_OPTIONS = ("personalise", "profile", "sentences")
_STEPWISE_OPTIONS = ("pooling", "state", "objective", "steps")


def check_policy(config: TrainConfig) -> None:
    """Raise `SpecError` where the policy is unknown, or takes no such option as it was given."""
    if config.policy not in TRAINERS:
        raise SpecError(f"--policy {config.policy!r}: unknown; there are {', '.join(TRAINERS)}")
    takers = dict.fromkeys(_SPACE_OPTIONS, CATALOGUE_POLICIES) | dict.fromkeys(_STEPWISE_OPTIONS, _STEPWISE)
    for option, policies in takers.items():
        if getattr(config, option) and config.policy not in policies:
            raise SpecError(f"--{option}: {config.policy} has no such setting; leave it out, or train {_or(policies)}")
    if config.agp and config.policy != "agp":
        raise SpecError(f"--profiler and its like: {config.policy} has no such setting; leave it out, or train agp")
    if config.profile_from and (config.policy not in _STEPWISE or "user_profile" not in config.patterns):
        raise SpecError(f"--profile-from: goes with --profile, and with {_or(_STEPWISE)}")
    if config.pap_rec and config.policy != PAP_REC:
        raise SpecError(f"--triggers and its like: {config.policy} has no such setting; leave it out, or train pap-rec")
    if config.pap_rec and config.pap_rec.task == "explanation":
        raise SpecError(
            "--task explanation: its surrogate compares the model's text with explanations that users wrote, and no "
            "data set here has any; take sequential or direct"
        )
    if config.reward_from:
        learners = [name for name in CATALOGUE_POLICIES if name != "rpp+"]
        if config.policy not in learners:
            raise SpecError(f"--reward-from: a reward model knows no edited sentences; train {_or(learners)}")
        if config.pooling or config.preset == "paper" or config.state == "paper":
            raise SpecError("--reward-from: no ranking can be read where no model ranks; leave out what reads it")


def _or(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
