"""Enumeration: the best single prompt of the joint space, by successive halving instead of brute force.

The paper's enumeration tries a handful of prompts. Here every prompt of the joint space may enter: a random sample of
it starts with a few users each, the better half goes on with twice as many, until one is left (Jamieson and Talwalkar
2016). All prompts of a round see the same users, so they differ by what they say and not by whom they met.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Literal

from promptailor.policies.base import PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.draws import uniform
from promptailor.policies.manual import SinglePrompt
from promptailor.policies.search_space import prompt_space
from promptailor.prompts.errors import BudgetExceededError, InputError
from promptailor.prompts.patterns import Catalogue, PromptSpec

FIRST_USERS = 8
"""Users in the first round; every round halves the prompts and doubles the users."""


def enumerate_prompts(evaluator: PromptEvaluator, catalogue: Catalogue, *, calls: int, seed: int) -> SinglePrompt:
    """Search the joint prompt space.

    Args:
        evaluator: runs trials on training users.
        catalogue: the prompt space.
        calls: trials in all, spread evenly over the rounds.
        seed: draws the prompts that enter and the order of users.

    Raises:
        InputError: there are too few calls for two prompts.
    """
    users = sorted(evaluator.user_ids, key=lambda user: uniform("enumeration users", seed, user))
    space = sorted(prompt_space(catalogue), key=lambda spec: uniform("enumeration", seed, spec.model_dump_json()))
    arms = [catalogue.manual_prompt, *(spec for spec in space if spec != catalogue.manual_prompt)]
    arms = arms[: _n_arms(calls, len(users))]
    rewards: defaultdict[PromptSpec, list[float]] = defaultdict(list)
    n_users = min(FIRST_USERS, len(users))
    stopped: Literal["finished", "budget"] = "finished"
    try:
        while len(arms) > 1:
            trials = [
                Trial(user_id=user, spec=spec) for spec in arms for user in users[len(rewards[spec]) : n_users]
            ]
            for trial, reward in zip(trials, evaluator.rewards(trials), strict=True):
                rewards[trial.spec].append(reward)
            arms.sort(key=lambda spec: -sum(rewards[spec]) / len(rewards[spec]))
            arms = arms[: math.ceil(len(arms) / 2)] if len(arms) > 2 else arms[:1]
            n_users = min(2 * n_users, len(users))
    except BudgetExceededError:
        stopped = "budget"
    info = PolicyInfo(name="enumeration", version="untrained", train_users=tuple(users))
    return SinglePrompt(spec=arms[0], info=info, stopped=stopped)


def _n_arms(calls: int, n_users: int) -> int:
    """Return how many prompts may enter so that all rounds together stay within the calls."""
    n_arms = 1
    while _cost(n_arms + 1, n_users) <= calls:
        n_arms += 1
    if n_arms < 2:
        raise InputError(f"--calls {calls}: comparing two prompts takes {_cost(2, n_users)} calls")
    return n_arms


def _cost(n_arms: int, n_users: int) -> int:
    cost, seen, users = 0, 0, min(FIRST_USERS, n_users)
    while n_arms > 1:
        cost += n_arms * (users - seen)
        seen, users = users, min(2 * users, n_users)
        n_arms = math.ceil(n_arms / 2) if n_arms > 2 else 1
    return cost
