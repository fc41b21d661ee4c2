"""Best-of-k: the null method of searching per request, at equal calls.

k random prompts are scored on pseudo-cases of the user's own history (`policies/pseudo_case.py`), and the best, the
first of equals, serves the request. So it costs k times the number of pseudo-cases, plus one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pydantic import Field

from promptailor.policies.base import Decision, PolicyInfo, Questions, Search
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import BudgetExceededError


class BestOfKConfig(Model):
    """How many prompts to try."""

    k: int = Field(15, ge=1)
    cases: int = Field(1, ge=1)
    """Pseudo-cases that a prompt is scored on, a call each."""


@dataclass(frozen=True, kw_only=True)
class BestOfK:
    """The best of k random prompts; a `SearchingPolicy`."""

    space: PromptSpace
    config: BestOfKConfig = field(default_factory=BestOfKConfig)
    info: PolicyInfo = field(default_factory=lambda: PolicyInfo(name="best-of-k", version="builtin"))

    @property
    def cases(self) -> int:
        """Pseudo-cases per prompt."""
        return self.config.cases

    @property
    def rewrites(self) -> bool:
        """Never: catalogue sentences only."""
        return False

    def search(self, *, key: tuple[str | int, ...], n_history: int, rewrites: bool) -> Search:
        """Try k random prompts at once; lengths that the history cannot fill would be the same prompt twice."""
        fitting = tuple(length for length in self.space.lengths if length <= n_history) or self.space.lengths[:1]
        space = replace(self.space, lengths=fitting)
        drawn = (space.spec(space.random("best of k", *key, number)) for number in range(self.config.k))
        attempts = tuple(Decision(spec=spec) for spec in dict.fromkeys(drawn))
        try:
            rewards = (yield Questions(attempts=attempts)).rewards
        except BudgetExceededError:
            return Decision(spec=space.manual)
        return attempts[rewards.index(max(rewards))]
