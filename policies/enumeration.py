"""Enumeration: the best single prompt of the joint space, the strongest method that does not personalise.

The paper's enumeration tries a few prompts. A fair rival gets as many calls as the personalised methods and spends them
well: half on random prompts, from which an additive model of the patterns predicts every prompt of the joint space
(1,215 by default); half on successive halving among the best predicted, all of them scored on the same users.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from promptailor.policies.additive import fit_additive
from promptailor.policies.base import PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.manual import SinglePrompt, Stopped
from promptailor.policies.prompt_space import Choice, PromptSpace
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import PromptSpec

N_FINALISTS = 16
BATCH = 100
"""Trials handed in at once while screening."""


def enumerate_prompts(evaluator: PromptEvaluator, space: PromptSpace, *, calls: int, seed: int) -> SinglePrompt:
    """Search the joint space of prompts.

    Args:
        evaluator: scores prompts on the training users.
        space: the prompts.
        calls: trials in all; a spent budget ends the search with the best so far.
        seed: keys the random prompts of the first half.
    """
    search = _Search(evaluator=evaluator, space=space, seed=seed, best=space.manual)
    stopped: Stopped = "finished"
    try:
        search.screen(calls // 2)
        search.halve(calls - calls // 2)
    except BudgetExceededError as error:
        stopped = error.stopped
    return SinglePrompt(spec=search.best, info=PolicyInfo(name="enumeration", version="unsaved"), stopped=stopped)


@dataclass(kw_only=True)
class _Search:
    """What was tried, and the best prompt so far."""

    evaluator: PromptEvaluator
    space: PromptSpace
    seed: int
    best: PromptSpec
    tried: list[Choice] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def screen(self, calls: int) -> None:
        """Try random prompts, each on the user whose turn it is."""
        for start in range(0, calls, BATCH):
            numbers = range(start, min(start + BATCH, calls))
            choices = [self.space.random("enumeration", self.seed, number) for number in numbers]
            self.rewards += self._score(zip(choices, numbers, strict=True))
            self.tried += choices
            self.best = self.space.spec(self.predicted_best(1)[0])

    def predicted_best(self, n: int) -> list[Choice]:
        """Return the n choices that an additive model of the trials so far predicts to be the best."""
        codes = self.space.design(self.tried)
        nothing_personal = [np.empty((len(self.tried), 0))] * len(codes)
        users = np.arange(len(self.tried)) % len(self.evaluator.user_ids)
        model = fit_additive(codes, nothing_personal, np.array(self.rewards), users)
        worth = [codes @ shared for codes, shared in zip(self.space.codes, model.shared, strict=True)]
        by_worth = sorted(self.space, key=lambda c: sum(w[option] for w, option in zip(worth, c, strict=True)))
        return by_worth[: -n - 1 : -1]

    def halve(self, calls: int) -> None:
        """Score the finalists on the same users, drop the worse half, and go on with the next users."""
        finalists = self.predicted_best(max(2, min(N_FINALISTS, calls // 8)))
        n_rounds = (len(finalists) - 1).bit_length()
        totals, turn = dict.fromkeys(finalists, 0.0), 0
        for _ in range(n_rounds):
            turns = range(turn, turn + calls // n_rounds // len(finalists))
            rewards = iter(self._score((choice, turn) for choice in finalists for turn in turns))
            for choice in finalists:
                totals[choice] += sum(next(rewards) for _ in turns)
            finalists = sorted(finalists, key=totals.__getitem__, reverse=True)[: (len(finalists) + 1) // 2]
            self.best, turn = self.space.spec(finalists[0]), turns.stop

    def _score(self, turns: Iterable[tuple[Choice, int]]) -> list[float]:
        """Return the rewards of choices, each on the user whose turn it is; every turn of a user is a permutation."""
        users = self.evaluator.user_ids
        return self.evaluator.rewards(
            [
                Trial(user_id=users[turn % len(users)], spec=self.space.spec(choice), sample_index=turn // len(users))
                for choice, turn in turns
            ]
        )
