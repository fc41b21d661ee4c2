"""Random search: the null method that every prompt optimiser has to beat at equal calls.

Random prompts, each scored on the same training users, the best mean kept. (Best-of-k, the other null method, keeps the
best of k random prompts per *request*, scored on the user's own earlier choices: `policies/best_of_k.py`.)
"""

from __future__ import annotations

from promptailor.policies.base import PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.manual import SinglePrompt, Stopped
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.errors import BudgetExceededError

USERS_PER_PROMPT = 25
"""Fewer users would try more prompts and keep a luckier one."""


def random_search(evaluator: PromptEvaluator, space: PromptSpace, *, calls: int, seed: int) -> SinglePrompt:
    """Return the best of calls / 25 random prompts; a spent budget ends the search with the best so far."""
    users = evaluator.user_ids[: min(USERS_PER_PROMPT, calls)]
    best, best_mean = space.manual, float("-inf")
    stopped: Stopped = "finished"
    for number in range(max(1, calls // len(users))):
        spec = space.spec(space.random("random search", seed, number))
        try:
            rewards = evaluator.rewards([Trial(user_id=user, spec=spec) for user in users])
        except BudgetExceededError as error:
            stopped = error.stopped
            break
        if sum(rewards) / len(rewards) > best_mean:
            best, best_mean = spec, sum(rewards) / len(rewards)
    return SinglePrompt(spec=best, info=PolicyInfo(name="random-search", version="unsaved"), stopped=stopped)
