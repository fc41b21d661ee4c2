"""`promptailor train --reward-from RUN`: train a policy on the rewards that another run paid for, with no LLM call.

A reward model is fitted to the run's `rewards.jsonl` and answers in the recommender's place. Nothing is selected on
validation users, since that would take the recommender: the last policy is the one. `evaluate` says how it serves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from promptailor.app.backends.budget import Spending
from promptailor.app.job import Job, TrainSummary
from promptailor.app.run_folder import POLICY, REWARDS
from promptailor.app.trainers import ONE_SHOT, reinforced_settings
from promptailor.evals.records import write_text
from promptailor.graph.rollout import Progress, start_inputs
from promptailor.graph.train import Schedule, Update, epoch_seed, order_of_user
from promptailor.policies.base import Trial
from promptailor.policies.checkpoint import read_manifest
from promptailor.policies.manual import Stopped
from promptailor.policies.reward_model import RewardModel, play
from promptailor.policies.types import PaidReward, StateInputs
from promptailor.prompts.errors import InputError, RunInterruptedError

REWARD_MODEL = "reward_model.json"
"""What the reward model was fitted to, and how far it is to be trusted."""


def train_on_rewards(job: Job, progress: Progress) -> TrainSummary:
    """Train a policy against a reward model.

    Raises:
        InputError: the run has no rewards, or they are about something else.
    """
    run = job.config.reward_from
    assert run is not None, "the caller has looked"
    users = {str(user.user_id): start_inputs(user, job.initial_length) for user in job.train}
    rewards = _read(run, job, known=users)
    model = RewardModel(job.workspace.catalogue, job.workspace.embeddings, users)
    fitted = model.fit(rewards)
    about = {
        "run": str(run),
        "rewards": len(rewards),
        "mean": sum(row.reward for row in rewards) / len(rewards),
        "noise": fitted.noise,
        "trust": dict(zip(model.patterns, fitted.trust.tolist(), strict=True)),
    }
    write_text(job.folder.path / REWARD_MODEL, json.dumps(about, indent=2) + "\n")
    train = _train_one_shot if job.config.policy in ONE_SHOT else _train_stepwise
    return train(job, model, progress)


def _train_one_shot(job: Job, model: RewardModel, progress: Progress) -> TrainSummary:
    evaluator = _Counted(job, model, progress)
    policy, stopped = ONE_SHOT[job.config.policy](job, evaluator)
    job.save(policy, n_steps=1, stopped=stopped, user_steps=evaluator.trials)
    return job.finish(stopped, 1, None, evaluator.trials, Spending())


def _train_stepwise(job: Job, model: RewardModel, progress: Progress) -> TrainSummary:
    from promptailor.policies.a2c import A2C  # noqa: PLC0415 - imports torch
    from promptailor.policies.actor_critic import ReinforcedPolicy  # noqa: PLC0415 - imports torch

    config, workspace = job.config, job.workspace
    design, learning = reinforced_settings(config)
    policy = ReinforcedPolicy(
        design, workspace.catalogue, embeddings=workspace.embeddings, encoder=workspace.encoder, seed=config.seed
    )
    learner = A2C(policy, learning, seed=config.seed)
    schedule = Schedule(
        n_steps=learning.n_steps,
        steps_per_update=learning.steps_per_update,
        users_per_update=min(learning.users_per_update, len(job.train)),
        calls=config.calls,
    )
    stopped: Stopped = "finished"
    calls = 0
    for number, turn in enumerate(schedule.turns(len(job.train)), 1):
        seed = epoch_seed(config.seed, turn.epoch)
        if turn.step == 0:
            if turn.users.start == 0:
                users = sorted(model.user_ids, key=lambda user: order_of_user(user, seed))
            states = [(user, model.inputs(user)) for user in users[turn.users]]
        rollouts = play(policy, model, states, until_step=turn.until_step, seed=seed, domain=workspace.dataset.domain)
        states = [(rollout.user_id, rollout.final_inputs) for rollout in rollouts]
        stats = learner.update(rollouts)
        job.folder.log(Update(number=number, epoch=turn.epoch, calls=turn.calls, stats=stats), None)
        progress(turn.calls - calls)
        calls = turn.calls
        if workspace.budget.stopped:
            stopped = RunInterruptedError.stopped
            break
    if not calls:
        least = schedule.users_per_update * schedule.steps_per_update
        raise InputError(f"--calls {config.calls}: one update takes {least}; give more")
    job.save(policy, n_steps=learning.n_steps, stopped=stopped, user_steps=calls)
    return job.finish(stopped, learning.n_steps, None, calls, Spending())


def _read(run: Path, job: Job, *, known: Collection[str]) -> list[PaidReward]:
    """Read a run's rewards, if they are about this job's data, prompts, answers and users."""
    manifest, workspace = read_manifest(run / POLICY), job.workspace
    paid_for = {
        "dataset": (manifest.dataset_digest, workspace.dataset.digest),
        "catalogue": (workspace.catalogue.reads(manifest.catalogue_digest), True),
        "model": (manifest.model, workspace.recommender.spec),
        "permutations": (manifest.permutations, job.config.permutations),
    }
    for name, (theirs, ours) in paid_for.items():
        if theirs != ours:
            raise InputError(f"--reward-from {run}: its {name} is {theirs}, not {ours}; pass the same")
    path = run / REWARDS
    try:
        rewards = [PaidReward.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise InputError(f"--reward-from {path}: {error.strerror}; name a finished training run") from None
    except ValidationError as error:
        raise InputError(f"--reward-from {path}: damaged ({error.errors()[0]['msg']}); train the run again") from None
    if not rewards:
        raise InputError(f"--reward-from {path}: no reward in it; name a run that paid for some")
    strangers = {row.user_id for row in rewards} - {*known}
    if strangers:
        raise InputError(
            f"--users {job.config.users}: {len(strangers)} users of {run} are not among them; "
            f"pass --users {len(manifest.train_users)}"
        )
    return rewards


class _Counted:
    """A reward model as a `PromptEvaluator` that says how far it has come."""

    def __init__(self, job: Job, model: RewardModel, progress: Progress) -> None:
        self._model, self._progress = model, progress
        self.trials = 0

    @property
    def user_ids(self) -> Sequence[str]:
        """The training users."""
        return self._model.user_ids

    def inputs(self, user_id: str) -> StateInputs:
        """The user's state at step 0."""
        return self._model.inputs(user_id)

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        """Predict the reward of each trial."""
        self.trials += len(trials)
        self._progress(len(trials))
        return self._model.rewards(trials)
