"""Enumeration: the best single prompt of the joint space, the strongest method that does not personalise.

The paper's enumeration tries a few prompts. A fair rival gets as many calls as the personalised methods and spends them
well: half on random prompts, from which an additive model of the patterns predicts all prompts of the joint space
(1,215 by default); half on successive halving among the best predicted, where every survivor is scored on the same users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from promptailor.policies.additive import Array, fit_additive
from promptailor.policies.base import PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.manual import SinglePrompt
from promptailor.policies.random_search import LENGTHS, random_prompt
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import Catalogue, PromptSpec

FINALISTS = 16


def enumerate_prompts(
    evaluator: PromptEvaluator, catalogue: Catalogue, *, calls: int, seed: int, lengths: Sequence[int] = LENGTHS
) -> SinglePrompt:
    """Search the joint space role x reasoning x format x length.

    Args:
        evaluator: scores prompts on the training users.
        catalogue: the sentences.
        calls: trials in all, at least 100 for a result that means anything.
        seed: keys the random prompts of the first half.
        lengths: history lengths to choose from.
    """
    search = _Search(evaluator, catalogue, tuple(lengths), seed)
    stopped: Literal["finished", "budget"] = "finished"
    try:
        search.screen(calls // 2)
        search.halve(calls - calls // 2)
    except BudgetExceededError:
        stopped = "budget"
    info = PolicyInfo(name="enumeration", version="untrained")
    return SinglePrompt(spec=search.best, info=info, stopped=stopped)
