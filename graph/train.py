"""The training loop of stepwise policies: roll out through the graph, update, repeat (RPP, Algorithm 1).

The loop is a generator, so that who drives it decides when to validate, log, save and stop. It holds no random state:
every draw is keyed, so a killed run is resumed by running it again over the answers already in the response store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from promptailor.graph.build import RankGraph
from promptailor.graph.context import Context
from promptailor.graph.rollout import Progress, paid_rewards, run_training, to_rollout
from promptailor.graph.state import TrainInput, TrainOutput
from promptailor.policies.draws import uniform
from promptailor.policies.types import PaidReward, Rollout, TrainingStats
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

    def turns(self, n_users: int) -> Iterator[Turn]:
        """Yield what is done between updates, in order, where nothing stops training early."""
        done = 0
        for epoch in count(1):
            for first in range(0, n_users, self.users_per_update):
                until_user = min(first + self.users_per_update, n_users)
                for step in range(0, self.n_steps, self.steps_per_update):
                    until_step = min(step + self.steps_per_update, self.n_steps)
                    done += (until_user - first) * (until_step - step)
                    if done > self.calls:
                        return
                    yield Turn(
                        epoch=epoch, users=slice(first, until_user), step=step, until_step=until_step, calls=done
                    )

    def planned(self, n_users: int) -> int:
        """Return the user-steps that training takes where nothing stops it early."""
        return max((turn.calls for turn in self.turns(n_users)), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Some steps of some users, after which the policy is updated."""

    epoch: int
    """From 1."""
    users: slice
    """Places in the epoch's order."""
    step: int
    until_step: int
    calls: int
    """User-steps when it is done, those of earlier turns included."""


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
    paid: Sequence[PaidReward] = ()
    """Rewards that it learned from, where a model was asked for them."""


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
    best, since_best = float("-inf"), 0
    for number, turn in enumerate(schedule.turns(len(inputs)), 1):
        seed = epoch_seed(context.seed, turn.epoch)
        if turn.step == 0:
            if turn.users.start == 0:
                users = sorted(inputs, key=lambda user: order_of_user(str(user.user_id), seed))
            batch = users[turn.users]
        explore = context.model_copy(update={"explore": True, "seed": seed, "split": "train"})
        outputs = run_training(graph, batch, explore, n_steps=turn.until_step, progress=progress)
        stats = learner.update([to_rollout(output, initial_length) for output in outputs])
        batch = [user.model_copy(update={"trace": output.trace}) for user, output in zip(batch, outputs, strict=True)]
        yield Update(number=number, epoch=turn.epoch, calls=turn.calls, stats=stats, paid=paid_rewards(outputs))
        since_best = 0 if stats.mean_reward > best else since_best + 1
        best = max(best, stats.mean_reward)
        if schedule.patience is not None and since_best >= schedule.patience:
            return


def epoch_seed(seed: int, epoch: int) -> int:
    """Return what keys an epoch's draws; epochs count from 1."""
    return seed + 1_000_003 * epoch


def order_of_user(user_id: str, seed: int) -> float:
    """Return what an epoch's users are sorted by; the seed is the epoch's."""
    return uniform("order of users", seed, user_id)


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
