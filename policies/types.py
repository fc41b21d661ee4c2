"""What policies see, do and learn from. Plain Python values, so that graph state can hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from promptailor.prompts.domain import Item, Model
from promptailor.prompts.patterns import PatternName, PromptSpec

StateKind = Literal["full", "paper"]
"""Which state s_t the agents see: `policies.state_encoder` says what is in it."""
Pooling = Literal["gru", "mean", "none"]
"""How the state reads the last ranking; `none` for policies that were trained where there were no rankings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInputs:
    """What a state s_t is computed from: kept beside the vector, so that learning can recompute it with gradients."""

    history: tuple[Item, ...]
    """The user's whole history, oldest first; the user embedding u is made of it."""
    step: int
    """t, from 0."""
    history_length: int
    """l_{t-1}: interactions the previous prompt showed; the catalogue's initial length at t = 0."""
    sentences: tuple[str, ...] = ()
    """Sentences of the previous prompt p_{t-1}; empty at t = 0."""
    prompt: str = ""
    """The previous prompt as a whole (the paper's state encodes it); empty at t = 0."""
    ranking: tuple[Item, ...] = ()
    """The model's previous ranking, best first; empty at t = 0."""
    profile: tuple[str, ...] = ()
    """Names of the known fields of the user's profile: the `user_profile` agent may choose among them only."""
    user_id: str = ""
    """Who is asked for; for policies that keep something for a user they have met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """s_t as the agents read it."""

    vector: list[float]
    """Shape (state_dim,)."""
    inputs: StateInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChoice:
    """What one agent did at one step."""

    action: int
    sentence_id: str
    """Id of the chosen sentence; for the history agent the increment, written `+n`."""
    log_prob: float
    """Log-probability the policy gave the action when it chose, in nats."""
    value: float
    """The critic's V(s_t)."""

    @property
    def probability(self) -> float:
        """Probability the policy gave the action."""
        return math.exp(self.log_prob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step of one user: one paid or cached LLM call."""

    inputs: StateInputs
    choices: dict[PatternName, AgentChoice]
    reward: float
    """NDCG@M of this user's ranking after the action (RPP, Eq. 6)."""
    history_length: int
    """l_t: interactions the prompt really showed."""


class PaidReward(Model):
    """One trial of a training run: a line of its `rewards.jsonl`, which reward models learn from."""

    user_id: str
    spec: PromptSpec
    reward: float
    """NDCG@M of the user's ranking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One episode of one user."""

    user_id: str
    transitions: tuple[Transition, ...]
    final_inputs: StateInputs
    """What s_T is computed from; needed to bootstrap where the episode was cut off."""
    truncated: bool = True
    """True where the step limit ended the episode (bootstraps), False where a stopping rule did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStats:
    """One update, as logged to `training.jsonl`."""

    mean_reward: float
    actor_loss: float
    critic_loss: float
    entropy: float
    """Mean over agents of the policy's entropy, in nats."""
    approx_kl: float
    grad_norm: float
    gradient_steps: int
    extra: dict[str, float] = field(default_factory=dict)
