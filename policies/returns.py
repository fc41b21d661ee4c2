"""Returns and advantages of one episode. Pure functions of plain arrays.

Truncation bootstraps, stopping does not: an episode cut off by the step limit ends with V(s_T), one that a stopping
rule ended with 0. Callers say which by the last entry of `values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Objective = Literal["sum", "final"]
"""What an episode is worth: the discounted sum of its rewards (the paper), or the reward of the ranking it serves."""
ONE_SIDED_5_PERCENT = 1.645
"""Standard errors beyond which fewer steps count as better."""


def objective_rewards(rewards: Sequence[float], objective: Objective) -> list[float]:
    """Return the rewards that count: all of them, or only the last step's, because its ranking is served."""
    if objective == "sum":
        return list(rewards)
    return [0.0] * (len(rewards) - 1) + [rewards[-1]]


def n_step_returns(rewards: Sequence[float], values: Sequence[float], *, gamma: float, n: int) -> Array:
    """Return G_t = sum_{i<n} gamma^i r_{t+i} + gamma^n V(s_{t+n}) for every t (our reading of RPP, Eq. 7).

    Args:
        rewards: r_0 ... r_{T-1}, shape (T,).
        values: V(s_0) ... V(s_T), shape (T + 1,); the last one 0 where the episode really ended.
        gamma: discount.
        n: steps looked ahead; towards the end of the episode fewer.
    """
    last = len(rewards)
    returns = np.empty(last)
    for t in range(last):
        end = min(t + n, last)
        returns[t] = sum(gamma**i * rewards[t + i] for i in range(end - t)) + gamma ** (end - t) * values[end]
    return returns


def gae(rewards: Sequence[float], values: Sequence[float], *, gamma: float, lam: float) -> Array:
    """Return generalised advantage estimates, shape (T,) (Schulman et al., 2016); arguments as in `n_step_returns`.

    Returns to regress V on are `gae(...) + values[:-1]`.
    """
    advantages, running = np.empty(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        running = rewards[t] + gamma * values[t + 1] - values[t] + gamma * lam * running
        advantages[t] = running
    return advantages


def serving_steps(rewards: Sequence[Sequence[float]], objective: Objective) -> int:
    """Return with how many steps a policy is served.

    One that learned for its last step is served with all of them, unless fewer serve validation users better by more
    than chance: the best of several means over a hundred users is mostly the luckiest. One that learned for the sum of
    its steps has no step of its own, so the best counts.

    Args:
        rewards: per validation user, the reward of serving with 1, 2, ... steps.
        objective: what the policy learned for.
    """
    table = np.array(rewards)
    means, last = table.mean(axis=0), table.shape[1] - 1
    if objective == "sum":
        return int(means.argmax()) + 1
    gains = table - table[:, [last]]
    errors = gains.std(axis=0, ddof=1) / np.sqrt(len(table))
    better = gains.mean(axis=0) > ONE_SIDED_5_PERCENT * errors
    return int(np.where(better, means, -np.inf).argmax()) + 1 if better[:last].any() else last + 1
