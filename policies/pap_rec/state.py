"""What a trigger search is given, and what it has found so far: plain data that a killed search goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from promptailor.policies.pap_rec.personal_words import Shrinkage
from promptailor.policies.pap_rec.surrogate import SURROGATES, Surrogate, rank_correlation
from promptailor.policies.white_box import WhiteBoxPrompt
from promptailor.prompts.domain import Model

Tokens = tuple[int, ...]
Stop = Literal["converged", "early", "rounds"]


class SearchConfig(BaseModel):
    """How triggers are searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared: int = Field(5, ge=1)
    """Words for everybody, the paper's l."""
    personal: int = Field(0, ge=0)
    """Words of each user's own."""
    surrogate: Surrogate = "both"
    shrinkage: Shrinkage = "eb"
    top_k: int = Field(5, ge=1)
    """Candidates per place, as in the paper."""
    rounds: int = Field(10, ge=1)
    patience: int = Field(2, ge=1)
    """Rounds without a better validation after which it stops."""
    batch: int = Field(256, ge=1)
    """Users that gradients are averaged over and candidates are tried on, drawn anew for every place."""
    admit: bool = True
    """Whether words must beat the prompt without any on validation users to be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerCase:
    """One user's held-out item, encoded with any triggers in place."""

    user_id: str
    prompt: WhiteBoxPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCases:
    """On whom is searched."""

    train: Sequence[TriggerCase]
    """Training users on their second-to-last item."""
    validation: Sequence[TriggerCase]
    """Validation users on theirs: select words, and stop the search."""
    bare: Sequence[WhiteBoxPrompt]
    """The validation users' prompts without triggers, in the same order."""
    train_again: Sequence[TriggerCase] = ()
    """The training users on their last item: how far a user's gains repeat; for personal words only."""
    warm: Sequence[TriggerCase] = ()
    """Users who get words of their own, on their second-to-last item; nothing else is chosen on them."""


class Round(Model):
    """What a round came to; a line of `training.jsonl`."""

    epoch: int
    calls: int
    """Prompts computed so far."""
    mean_reward: float
    """NDCG@10 of training users with the words so far."""
    validation: float
    """NDCG@10 of validation users."""
    validation_surrogate: float
    accepted: int
    words: tuple[str, ...]


class Trial(BaseModel):
    """A candidate against the words that stood: surrogates' gains on one half of the users, NDCG@10's on the other."""

    surrogates: dict[Surrogate, float]
    served: float


class SearchState(BaseModel):
    """A search so far."""

    words: Tokens
    personal: dict[str, Tokens] = Field(default_factory=dict)
    """Training users' own words, in the last places."""
    round: int = 0
    turn: int = 0
    """Places visited in this round."""
    accepted: int = 0
    best: Tokens | None = None
    """None where no words beat the prompt without any."""
    best_surrogate: float | None = None
    """On validation users; None before the first validation."""
    best_served: float | None = None
    bare_served: float | None = None
    """NDCG@10 of validation users without words."""
    stale: int = 0
    prompts: int = 0
    """Computed so far, forward or forward and backward."""
    seconds: float = 0.0
    """Of search, over every part of a resumed one."""
    log: list[Round] = Field(default_factory=list)
    trials: list[Trial] = Field(default_factory=list)
    stop: Stop | None = None
    reliability: tuple[float, ...] = ()
    """rho of each personal place, once users were personalised."""

    @property
    def correlations(self) -> dict[Surrogate, float | None]:
        """Spearman's correlation of each surrogate's gain with the gain of NDCG@10 on other users, over candidates."""
        return {s: rank_correlation([(t.surrogates[s], t.served) for t in self.trials]) for s in SURROGATES}
