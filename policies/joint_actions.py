"""Every combination of the patterns' actions as one action: what a single agent over whole prompts chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class JointActions:
    """The product of the patterns' action spaces, numbered with the last pattern running fastest."""

    sizes: tuple[int, ...]
    """Actions of each pattern, K of them."""

    def __len__(self) -> int:
        """Return how many combinations there are."""
        return prod(self.sizes)

    def join(self, actions: Tensor) -> Tensor:
        """Return the numbers, shape (B,), of combinations, shape (B, K)."""
        number = torch.zeros(len(actions), dtype=torch.long)
        for size, column in zip(self.sizes, actions.unbind(dim=1), strict=True):
            number = number * size + column
        return number

    def split(self, number: int) -> tuple[int, ...]:
        """Return the combination behind a number."""
        actions: list[int] = []
        for size in reversed(self.sizes):
            number, action = divmod(number, size)
            actions.append(action)
        return tuple(reversed(actions))

    def add(self, parts: Sequence[Tensor]) -> Tensor:
        """Add up what belongs to the patterns' own actions, each of shape (B, sizes[k]), to shape (B, combinations)."""
        total = parts[0]
        for part in parts[1:]:
            total = (total[:, :, None] + part[:, None, :]).flatten(1)
        return total

    def log_conditionals(self, log_probs: Tensor, actions: Sequence[int]) -> list[float]:
        """Return log pi(a_k | a_1 ... a_{k-1}) for every k; they add up to the log-probability of the combination.

        Args:
            log_probs: of every combination, shape (combinations,).
            actions: the combination.
        """
        rest, before, conditionals = log_probs.reshape(self.sizes), 0.0, []
        for action in actions:
            rest = rest[action]
            until = float(rest.logsumexp(dim=tuple(range(rest.ndim)))) if rest.ndim else float(rest)
            conditionals.append(min(0.0, until - before))
            before = until
        return conditionals
