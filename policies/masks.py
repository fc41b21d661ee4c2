"""Which actions mean something in a state: more history where there is more, profile fields where they are known."""

from __future__ import annotations

import torch
from torch import Tensor

from promptailor.prompts.patterns import Catalogue, HistoryPattern, PatternName, ProfilePattern


def mask_actions(logits: Tensor, pattern: PatternName, catalogue: Catalogue, counters: Tensor) -> Tensor:
    """Return logits or values of a pattern's actions, shape (B, n_actions), with -inf for those without a meaning.

    Args:
        logits: of every action.
        pattern: whose actions; every sentence always means something.
        catalogue: says what the actions do.
        counters: as in `StateFeatures`, shape (B, 4).
    """
    if pattern == "history_records":
        return logits.masked_fill(~allowed_increments(catalogue.history_records, counters), -torch.inf)
    if pattern == "user_profile":
        return logits.masked_fill(~allowed_subsets(catalogue.user_profile, counters), -torch.inf)
    return logits


def next_lengths(history: HistoryPattern, counters: Tensor) -> Tensor:
    """Return l_t after each increment, shape (B, n_increments): `HistoryPattern.next_length` for tensors."""
    length, cap = counters[:, :1], counters[:, 1:2]
    return torch.minimum(length + torch.tensor(history.increments), cap).long()


def allowed_increments(history: HistoryPattern, counters: Tensor) -> Tensor:
    """Return which increments may be chosen, shape (B, n_increments).

    At the cap several increments mean the same: only the first that leaves the length as it is stays.
    """
    lengths, now = next_lengths(history, counters), torch.minimum(counters[:, :1], counters[:, 1:2])
    same = lengths == now
    return ~same | (same.cumsum(dim=1) == 1)


def allowed_subsets(profile: ProfilePattern, counters: Tensor) -> Tensor:
    """Return which sets of profile fields may be shown, shape (B, n_subsets): those whose fields are all known."""
    subsets = torch.tensor([profile.bits(subset) for subset in profile.subsets])
    return (subsets & ~counters[:, 3:4].long()) == 0
