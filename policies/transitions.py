"""Transitions as tensors: what learners compute losses on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptailor.policies.actor_critic import ReinforcedPolicy
from promptailor.policies.state_encoder import StateFeatures
from promptailor.policies.types import Rollout


@dataclass(frozen=True, slots=True)
class Transitions:
    """B steps of any users, K agents in the order of `PolicyConfig.personalised`."""

    features: StateFeatures
    actions: Tensor
    """Shape (B, K)."""
    log_probs: Tensor
    """What the policy gave the actions when it chose them, shape (B, K)."""
    rewards: Tensor
    """r_t, shape (B,)."""
    lengths: Tensor
    """l_t, shape (B,)."""
    users: Tensor
    """Whose step it was, as a number, shape (B,)."""

    def __len__(self) -> int:
        """Return B."""
        return len(self.rewards)

    def __getitem__(self, rows: Tensor) -> Transitions:
        """Select rows."""
        return Transitions(
            features=self.features[rows],
            actions=self.actions[rows],
            log_probs=self.log_probs[rows],
            rewards=self.rewards[rows],
            lengths=self.lengths[rows],
            users=self.users[rows],
        )

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], policy: ReinforcedPolicy, numbers: dict[str, int]) -> Transitions:
        """Read rollouts, step by step.

        Args:
            rollouts: episodes of the policy.
            policy: looks up the features of the states.
            numbers: user ids seen so far, to which new ones are added.
        """
        steps = [step for rollout in rollouts for step in rollout.transitions]
        agents = policy.config.personalised
        choices = [[step.choices[pattern] for pattern in agents] for step in steps]
        users = [numbers.setdefault(r.user_id, len(numbers)) for r in rollouts for _ in r.transitions]
        return cls(
            features=StateFeatures.concatenate([policy.reader.read(step.inputs) for step in steps]),
            actions=torch.tensor([[choice.action for choice in row] for row in choices]),
            log_probs=torch.tensor([[choice.log_prob for choice in row] for row in choices], dtype=torch.float32),
            rewards=torch.tensor([step.reward for step in steps], dtype=torch.float32),
            lengths=torch.tensor([step.history_length for step in steps]),
            users=torch.tensor(users),
        )

    @staticmethod
    def concatenate(parts: Sequence[Transitions]) -> Transitions:
        """Stack batches."""
        return Transitions(
            features=StateFeatures.concatenate([part.features for part in parts]),
            actions=torch.cat([part.actions for part in parts]),
            log_probs=torch.cat([part.log_probs for part in parts]),
            rewards=torch.cat([part.rewards for part in parts]),
            lengths=torch.cat([part.lengths for part in parts]),
            users=torch.cat([part.users for part in parts]),
        )
