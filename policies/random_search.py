"""Random search: random prompts, each scored on the same users, the best mean kept. What any clever search must beat."""

from __future__ import annotations

from typing import Literal

from promptailor.policies.base import PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.draws import uniform
from promptailor.policies.manual import SinglePrompt
from promptailor.policies.search_space import prompt_space
from promptailor.prompts.errors import BudgetExceededError, InputError
from promptailor.prompts.patterns import Catalogue

USERS_PER_PROMPT = 50
"""Enough to tell prompts .1 apart (sd .3 per user), few enough to try many."""


def random_search(evaluator: PromptEvaluator, catalogue: Catalogue, *, calls: int, seed: int) -> SinglePrompt:
    """Return the best of `calls / USERS_PER_PROMPT` random prompts, all scored on the same users.

    Args:
        evaluator: runs trials on training users.
        catalogue: the prompt space.
        calls: trials in all.
        seed: draws prompts and users.

    Raises:
        InputError: there are too few calls to score a single prompt.
    """
    users = sorted(evaluator.user_ids, key=lambda user: uniform("random search users", seed, user))[:USERS_PER_PROMPT]
    n_prompts = calls // len(users)
    if not n_prompts:
        raise InputError(f"--calls {calls}: one prompt takes {len(users)} calls")
    space = sorted(prompt_space(catalogue), key=lambda spec: uniform("random search", seed, spec.model_dump_json()))
    best, best_mean = catalogue.manual_prompt, float("-inf")
    stopped: Literal["finished", "budget"] = "finished"
    try:
        for spec in space[:n_prompts]:
            rewards = evaluator.rewards([Trial(user_id=user, spec=spec) for user in users])
            if (mean := sum(rewards) / len(rewards)) > best_mean:
                best, best_mean = spec, mean
    except BudgetExceededError:
        stopped = "budget"
    info = PolicyInfo(name="random-search", version="untrained", train_users=tuple(users))
    return SinglePrompt(spec=best, info=info, stopped=stopped)
