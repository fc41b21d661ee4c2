"""What a method served beside the best step it passed through, which only somebody who knows the answer can pick.

The RPP paper stops at a round chosen by test performance. Choosing each user's best step after the fact is more than
any stopping rule can do: steps show the candidates in different orders, so the best of many is better even where the
prompt never changes. It is shown as a bound, never as a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from promptailor.evals.metrics import PRIMARY
from promptailor.evals.records import UserRecord
from promptailor.evals.statistics import Array, Estimate, estimate, estimates
from promptailor.prompts.domain import Model


class StepProfile(Model):
    """The primary measure over the same users."""

    served: Estimate
    """What the method answered, by its own label-free rule."""
    alone: tuple[Estimate, ...]
    """Had every user been served step t; users who stopped before keep their last step."""
    best_so_far: tuple[Estimate, ...]
    """Upper bound: every user's best among the first t steps."""


def gain_of_rank(rank: int | None, k: int = 10) -> float:
    """Return NDCG@k of a ranking whose one relevant item stands at `rank` (from 1), 0 where it is absent."""
    return 1.0 / math.log2(rank + 1) if rank is not None and rank <= k else 0.0


def step_gains(records: Iterable[UserRecord]) -> Array:
    """Return NDCG@10 of every user and step, shape (n_users, n_steps); n_steps is 0 where no record has steps."""
    ranks = [row.step_ranks for row in records]
    n_steps = max(map(len, ranks), default=0)
    if not all(ranks):  # a method whose records know nothing of steps for some user has no profile
        n_steps = 0
    return np.array(
        [[gain_of_rank(of_user[min(step, len(of_user) - 1)]) for step in range(n_steps)] for of_user in ranks]
    ).reshape(len(ranks), n_steps)


def step_profile(records: Iterable[UserRecord], *, seed: int) -> StepProfile | None:
    """Return what was served and what the steps would have been; None for methods without steps."""
    rows = list(records)
    gains = step_gains(rows)
    if not gains.size:
        return None
    return StepProfile(
        served=estimate([row.metrics[PRIMARY] for row in rows], key=(seed, "steps", "served")),
        alone=tuple(estimates(gains, key=(seed, "steps", "alone"))),
        best_so_far=tuple(estimates(np.maximum.accumulate(gains, axis=1), key=(seed, "steps", "best"))),
    )
