"""The training loop of stepwise policies: roll out through the graph, update, repeat (RPP, Algorithm 1).

The loop is a generator, so that who drives it decides when to validate, log, save and stop. It holds no random state:
every draw is keyed, so a killed run is resumed by running it again over the answers already in the response store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Protocol

from promptailor.graph.build import RankGraph
from promptailor.graph.context import Context
from promptailor.graph.rollout import Progress, run_training, to_rollout
from promptailor.graph.state import TrainInput, TrainOutput
from promptailor.policies.draws import uniform
from promptailor.policies.types import Rollout, TrainingStats
from promptailor.prompts.llm import Split


class Learner(Protocol):
    """Improves a policy from episodes."""

    def update(self, rollouts: Sequence[Rollout]) -> TrainingStats:
        """Update the policy the rollouts were drawn from."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How many users take how many steps between two updates."""

    n_steps: int
    """Steps per episode (T)."""
    steps_per_update: int
    """`n_steps` for whole episodes; 1 updates after every step of all users, as the paper does."""
    users_per_update: int
    calls: int
    """User-steps in all; the loop stops before an update that would pass it."""
    patience: int | None = None
    """Stop after so many updates without a new best mean reward; the paper stops after 7."""

    def planned(self, n_users: int) -> int:
        """Return the user-steps that training takes where nothing stops it early."""
        done = 0
        for first in cycle(range(0, n_users, self.users_per_update)):
            users = min(self.users_per_update, n_users - first)
            for step in range(0, self.n_steps, self.steps_per_update):
                until = min(step + self.steps_per_update, self.n_steps)
                if done + users * (until - step) > self.calls:
                    return done
                done += users * (until - step)
        return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update of the policy."""

    number: int
    """From 1."""
    epoch: int
    """Passes over the training users begun, from 1."""
    calls: int
    """User-steps so far."""
    stats: TrainingStats


def train_stepwise(
    graph: RankGraph,
    learner: Learner,
    inputs: Sequence[TrainInput],
    context: Context,
    schedule: Schedule,
    *,
    initial_length: int,
    progress: Progress | None = None,
) -> Iterator[Update]:
    """Train, yielding after every update.

    Args:
        graph: a training graph that has the policy loaded.
        learner: updates that policy.
        inputs: one training request per user.
        context: names the policy; its seed keys the draws.
        schedule: users, steps, updates and the number of calls.
        initial_length: the catalogue's history length at t = 0.
        progress: told of user-steps done.

    Raises:
        BudgetExceededError: the budget ran out; updates already yielded stand.
    """
    calls, number, best, since_best = 0, 0, float("-inf"), 0
    for epoch in count(1):
        seed = context.seed + 1_000_003 * epoch
        explore = context.model_copy(update={"explore": True, "seed": seed, "split": "train"})
        users = sorted(inputs, key=lambda user: uniform("order of users", seed, user.user_id))
        for first in range(0, len(users), schedule.users_per_update):
            batch = users[first : first + schedule.users_per_update]
            for step in range(0, schedule.n_steps, schedule.steps_per_update):
                until = min(step + schedule.steps_per_update, schedule.n_steps)
                if calls + len(batch) * (until - step) > schedule.calls:
                    return
                outputs = run_training(graph, batch, explore, n_steps=until, progress=progress)
                stats = learner.update([to_rollout(output, initial_length) for output in outputs])
                batch = [
                    user.model_copy(update={"trace": output.trace}) for user, output in zip(batch, outputs, strict=True)
                ]
                calls, number = calls + len(batch) * (until - step), number + 1
                yield Update(number=number, epoch=epoch, calls=calls, stats=stats)
                since_best = 0 if stats.mean_reward > best else since_best + 1
                best = max(best, stats.mean_reward)
                if schedule.patience is not None and since_best >= schedule.patience:
                    return


def serve_greedily(
    graph: RankGraph,
    inputs: Sequence[TrainInput],
    context: Context,
    *,
    n_steps: int,
    split: Split,
    progress: Progress | None = None,
) -> list[TrainOutput]:
    """Run the greedy policy for validation: each output has the reward and ranking of serving with 1, 2, ... steps."""
    greedy = context.model_copy(update={"explore": False, "split": split})
    return run_training(graph, inputs, greedy, n_steps=n_steps, progress=progress)
