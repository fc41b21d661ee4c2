"""The shapes a prompt policy can have, and how optimisers get rewards.

A one-shot policy chooses a whole prompt from the user alone and serves with one call (manual, enumeration, random
search, bandit). A stepwise policy is a team of agents, one per pattern, that look at the last prompt and ranking and
choose again (RPP). A searching policy tries prompts for each request before it serves it (GRIPS, best-of-k). The graph
runs a stepwise policy in one tool node per agent, and the others in one node.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from promptailor.policies.profiling import Profiling
from promptailor.policies.types import AgentChoice, StateInputs
from promptailor.prompts.patterns import PatternName, PromptSpec, SentencePattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A whole prompt that was chosen, or is to be tried."""

    spec: PromptSpec
    sentences: Mapping[SentencePattern, str] = field(default_factory=dict)
    """Templates that replace the catalogue's sentences of these patterns; empty where nothing was edited."""
    triggers: str = ""
    """Words, with blanks between them, that stand as the last line of the user message (PAP-REC)."""
    written: bool = False
    """Whether the answer has to be written out because it reasons first; no readout of the labels is then asked for."""
    probabilities: dict[PatternName, float] = field(default_factory=dict)
    """Propensity of the chosen action per pattern; empty for deterministic policies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """What a policy says of itself in outputs and manifests."""

    name: str
    """The method's name, such as `rpp` or `manual`."""
    version: str
    """Digest of the saved policy; `builtin` where nothing was learned."""
    train_users: tuple[str, ...] = ()
    """Users it was trained or selected on; `evaluate` leaves them out."""
    n_steps: int = 1
    """Prompts per served request."""
    permutations: int = 1
    """Shuffled copies of each prompt it was trained and selected with, each a call of its own."""
    fusion_weights: tuple[float, ...] = ()
    """What each step counts for in `fusion="weighted"`, learned on validation users; empty where nothing was."""
    warm_users: tuple[str, ...] = ()
    """Those of `train_users` who are test users: something was searched for them on their second-to-last item."""
    profiling: Profiling | None = None
    """What a model writes about user and items before the policy chooses (AGP); None where nothing is."""


@runtime_checkable
class OneShotPolicy(Protocol):
    """Chooses a whole prompt at once."""

    @property
    def info(self) -> PolicyInfo:
        """Name, version, users it has seen, calls per request."""
        ...

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        """Choose for one user; `key` keys every random draw; without `explore` the choice is greedy."""
        ...


@runtime_checkable
class StepwisePolicy(Protocol):
    """A team of agents that choose step by step."""

    @property
    def info(self) -> PolicyInfo:
        """Name, version, users it has seen, calls per request."""
        ...

    @property
    def agents(self) -> Mapping[PatternName, str]:
        """Patterns that have an agent, each with the description its tool shows."""
        ...

    def observe(self, inputs: StateInputs) -> list[float]:
        """Compute s_t, shape (state_dim,)."""
        ...

    def act(
        self, pattern: PatternName, vector: Sequence[float], *, key: tuple[str | int, ...], explore: bool
    ) -> AgentChoice:
        """Let one agent choose; `key`, (seed, user, step), keys the draw; without `explore` the choice is greedy."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a search wants to know next; all of it may be asked at once."""

    attempts: tuple[Decision, ...] = ()
    """Prompts to score."""
    rewrites: tuple[str, ...] = ()
    """Templates of sentences to have rewritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """What came of a search's questions, in their order."""

    rewards: tuple[float, ...] = ()
    """Mean NDCG of each attempt, over the cases it was scored on."""
    rewrites: tuple[str | None, ...] = ()
    """Templates; None where a rewrite failed a guard."""


Search = Generator[Questions, Replies, Decision]
"""A search that asks and is told, and returns the prompt it settles on.

It calls no model itself, so that the same search serves one user on an event loop or is run over many users. A
`BudgetExceededError` thrown into it ends it with the best so far.
"""


@runtime_checkable
class SearchingPolicy(Protocol):
    """Searches a prompt for each request, scored on choices that the user made earlier; it is told no label."""

    @property
    def info(self) -> PolicyInfo:
        """Name and version; it has seen no users."""
        ...

    @property
    def cases(self) -> int:
        """How many of the user's last choices a prompt is scored on, as far as the history goes."""
        ...

    @property
    def rewrites(self) -> bool:
        """Whether it asks for rewrites where there is a refiner."""
        ...

    def search(self, *, key: tuple[str | int, ...], n_history: int, rewrites: bool) -> Search:
        """Begin a search.

        Args:
            key: keys every random draw.
            n_history: interactions that the longest prompt can show.
            rewrites: whether there is a refiner to ask.
        """
        ...


PromptPolicy = OneShotPolicy | StepwisePolicy | SearchingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A prompt to try on a training user."""

    user_id: str
    spec: PromptSpec
    sample_index: int = 0
    sentences: Mapping[SentencePattern, str] = field(default_factory=dict)
    """Templates that replace the catalogue's sentences."""
    triggers: str = ""
    """Words that stand as the last line of the user message."""


class PromptEvaluator(Protocol):
    """Runs trials against the real recommender; what search methods and the bandit learn from.

    Implemented by `graph.rollout.GraphEvaluator`. Raises `BudgetExceededError` when the budget allows no further call.
    """

    @property
    def user_ids(self) -> Sequence[str]:
        """The training users, in a fixed order."""
        ...

    def inputs(self, user_id: str) -> StateInputs:
        """The user's state at step 0."""
        ...

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        """Return the reward (NDCG@M) of each trial, in order; a repeated trial is a cache hit and costs no call."""
        ...


class Persistent(Protocol):
    """A policy that can be saved: safetensors or JSON in a folder, nothing pickled."""

    def save(self, folder: Path) -> None:
        """Write the policy's files; the folder's manifest is written by `app.store`."""
        ...
