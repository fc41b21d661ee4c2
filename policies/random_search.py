"""Random search: the null method every prompt optimiser has to beat at equal calls.

Random prompts, each scored on as many users, the best mean kept. (`best-of-k` is the other null method: k random
prompts per *request*, the best kept by label; it needs the label, so it is an evaluation baseline and no policy.)
"""

from __future__ import annotations

from collections.abc import Sequence

from promptailor.policies.base import PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.draws import sample_index
from promptailor.policies.manual import SinglePrompt
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import Catalogue, PromptSpec

LENGTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30)
"""History lengths that one-shot methods choose from."""
USERS_PER_PROMPT = 25


def random_prompt(catalogue: Catalogue, lengths: Sequence[int], *key: str | int) -> PromptSpec:
    """Draw a prompt uniformly from the joint space; the draw is a function of `key`."""

    def draw(name: str, n: int) -> int:
        return sample_index([1 / n] * n, *key, name)

    return PromptSpec(
        role_playing=draw("role_playing", catalogue.n_actions("role_playing")),
        history_length=lengths[draw("history_records", len(lengths))],
        reasoning_guidance=draw("reasoning_guidance", catalogue.n_actions("reasoning_guidance")),
        output_format=draw("output_format", catalogue.n_actions("output_format")),
    )


def random_search(
    evaluator: PromptEvaluator, catalogue: Catalogue, *, calls: int, seed: int, lengths: Sequence[int] = LENGTHS
) -> SinglePrompt:
    """Return the best of calls / 25 random prompts; all are scored on the same users, so luck with users cancels."""
    users = evaluator.user_ids[: min(USERS_PER_PROMPT, calls)]
    best, best_mean, stopped = catalogue.manual_prompt, float("-inf"), "finished"
    for number in range(max(1, calls // len(users))):
        spec = random_prompt(catalogue, lengths, "random search", seed, number)
        try:
            rewards = evaluator.rewards([Trial(user_id=user, spec=spec) for user in users])
        except BudgetExceededError:
            stopped = "budget"
            break
        mean = sum(rewards) / len(rewards)
        if mean > best_mean:
            best, best_mean = spec, mean
    return SinglePrompt(spec=best, info=PolicyInfo(name="random-search", version="untrained"), stopped=stopped)
