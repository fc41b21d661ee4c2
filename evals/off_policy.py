"""How another policy would have done, from a log of what one policy showed and how it was liked.

The log must have been drawn (`--explore`): what its policy would never choose tells nothing about choosing it. With
mu the policy of the log, pi the other one, r a reward and a = (a_1, ..., a_K) the options of a prompt's patterns:

    ips       mean of  w r,  w = pi(a) / mu(a)                             (Horvitz and Thompson, 1952)
    snips     sum of  w r  over the sum of  w                              (Swaminathan and Joachims, 2015)
    dr        mean of  q(pi) + w (r - q(a)),  q a model of the reward      (Dudik, Langford and Li, 2011)
    additive  mean of  (1 - K + sum_k w_k) r,  w_k = pi_k / mu_k  (Swaminathan et al., 2017: the pseudoinverse)

The first three assume nothing about rewards, and need many rows where pi and mu agree on whole prompts. The last one
assumes that a reward adds up over the patterns, as the bandit's own model does, and uses every row. Patterns are drawn
independently given the user. Departure from the papers: rows of one user belong together, so intervals resample users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptailor.evals.statistics import Estimate, ratio_estimate
from promptailor.policies.additive import Array, fit_additive
from promptailor.policies.draws import uniform
from promptailor.policies.prompt_space import Choice, PromptSpace
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import DataError

EstimatorName = Literal["ips", "snips", "dr", "additive"]
MIN_USERS = 10
"""Fewer users give no interval."""
MIN_MATCHES = 20
"""Fewer users with a row on which both policies agree give no estimate by whole prompts."""
_FOLDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedReward:
    """One row of a log: what was chosen for a user, how likely that was, and what came of it."""

    user: str
    choice: Choice
    propensities: tuple[float, ...]
    """mu_k(a_k), one per pattern."""
    target: Choice
    """What the other policy chooses for this user."""
    target_chances: tuple[float, ...]
    """pi_k(a_k), one per pattern: of the logged options, not of its own."""
    reward: float
    """In [0, 1]."""


class OffPolicyReport(Model):
    """What a log says about a policy."""

    n_rows: int
    n_users: int
    n_matches: int
    """Rows on which both policies choose the same prompt."""
    effective_rows: float
    """Kish's effective number of rows of `ips`: (sum w)^2 over the sum of w^2."""
    logged: Estimate
    """Mean reward of the log's own policy."""
    estimates: dict[EstimatorName, Estimate]
    missing: dict[EstimatorName, str]
    """Estimators that the log is too small for, and why."""


def estimate_policy(log: Sequence[LoggedReward], space: PromptSpace, *, seed: int = 0) -> OffPolicyReport:
    """Estimate the mean reward of another policy from a log.

    Args:
        log: rows with propensities above 0.
        space: the prompts that choices count in.
        seed: keys the intervals' resampling.

    Raises:
        DataError: too few users, or a propensity that is none.
    """
    users = sorted({row.user for row in log})
    if len(users) < MIN_USERS:
        raise DataError(f"feedback: {len(users)} users voted on answers that were drawn; an estimate needs {MIN_USERS}")
    mu = np.array([row.propensities for row in log])
    pi = np.array([row.target_chances for row in log])
    if not ((mu > 0) & (mu <= 1)).all():
        raise DataError("feedback: a propensity is not above 0 and at most 1; was the log made with --explore?")
    rewards = np.array([row.reward for row in log])
    numbers = {user: number for number, user in enumerate(users)}
    places = np.array([numbers[row.user] for row in log])
    ratios = pi / mu
    weights = ratios.prod(axis=1)
    per_row = np.ones(len(log))
    estimates: dict[EstimatorName, Estimate] = {}
    missing: dict[EstimatorName, str] = {}

    def mean(name: str, top: Array, bottom: Array) -> Estimate:
        by_user = [np.bincount(places, values).astype(np.float64) for values in (top, bottom)]
        return ratio_estimate(by_user[0], by_user[1], key=("off-policy", name, seed))

    n_matching_users = len(np.unique(places[weights > 0]))
    if n_matching_users < MIN_MATCHES:
        reason = f"both policies chose the same prompt for {n_matching_users} users; {MIN_MATCHES} are needed"
        missing = {"ips": reason, "snips": reason, "dr": reason}
    else:
        at_log, at_target = _predicted(log, space, rewards, places)
        estimates["ips"] = mean("ips", weights * rewards, per_row)
        estimates["snips"] = mean("snips", weights * rewards, weights)
        estimates["dr"] = mean("dr", at_target + weights * (rewards - at_log), per_row)
    n_patterns = mu.shape[1]
    estimates["additive"] = mean("additive", (1 - n_patterns + ratios.sum(axis=1)) * rewards, per_row)
    return OffPolicyReport(
        n_rows=len(log),
        n_users=len(users),
        n_matches=int((weights > 0).sum()),
        effective_rows=float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0,
        logged=mean("logged", rewards, per_row),
        estimates=estimates,
        missing=missing,
    )


def _predicted(
    log: Sequence[LoggedReward], space: PromptSpace, rewards: Array, places: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Return what a model that has not seen a row's user predicts for its own choice and for the target's."""
    logged, target = space.design([row.choice for row in log]), space.design([row.target for row in log])
    fold_by_user = {row.user: int(_FOLDS * uniform("off-policy fold", row.user)) for row in log}
    folds = np.array([fold_by_user[row.user] for row in log])
    at_log, at_target = np.zeros(len(log)), np.zeros(len(log))
    for fold in range(_FOLDS):
        inside, rest = folds == fold, folds != fold
        if not (inside.any() and rest.any()):
            at_log[inside] = at_target[inside] = rewards.mean()
            continue
        nothing_personal = [np.empty((int(rest.sum()), 0))] * len(logged)
        model = fit_additive([codes[rest] for codes in logged], nothing_personal, rewards[rest], places[rest])
        for predicted, design in ((at_log, logged), (at_target, target)):
            predicted[inside] = model.intercept + sum(
                codes[inside] @ shared for codes, shared in zip(design, model.shared, strict=True)
            )
    return at_log, at_target
