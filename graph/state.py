"""The rank graph's state and its two faces: what a request looks like, and what the answer looks like.

Pydantic where JSON comes in or goes out, frozen dataclasses in between. Ground truth stands in `TrainInput` alone, and
only the `score` node is typed with a slice of the state that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from promptailor.policies.types import AgentChoice, Observation, StateInputs
from promptailor.prompts.assemble import AssembledPrompt
from promptailor.prompts.domain import Item, ItemId, ParseReport, RankedItem, RankRequest, UserProfile
from promptailor.prompts.llm import Completion
from promptailor.prompts.patterns import PatternName, PromptSpec, SentencePattern


class RankInput(BaseModel):
    """A request: who asks, what they chose before, what can be recommended. There is no field for a label."""

    model_config = ConfigDict(title="Request", extra="forbid")

    user_id: str | int = Field(description="Whose ranking it is.")
    history: list[Item | ItemId] = Field(description="Oldest first; items, or bare ids where a catalogue is loaded.")
    candidates: list[Item | ItemId] = Field(min_length=2, description="Items, or bare ids where a catalogue is loaded.")
    domain: str | None = Field(None, description="Word list to fill the sentences with; the catalogue's where empty.")
    user_profile: UserProfile | None = Field(None, description="What else is known of the user.")

    @classmethod
    def of(cls, request: RankRequest, **fields: Any) -> Self:
        """Return the graph's input for a resolved request, with the fields that a request does not have."""
        return cls(
            user_id=request.user_id,
            history=list(request.history),
            candidates=list(request.candidates),
            domain=request.domain,
            user_profile=request.user_profile,
            **fields,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """Everything one step did."""

    spec: PromptSpec
    choices: Mapping[PatternName, AgentChoice]
    inputs: StateInputs | None
    prompt: AssembledPrompt
    ranking: tuple[Item, ...]
    parse: ParseReport
    cached: bool
    calls: int
    propensities: Mapping[PatternName, float] = field(default_factory=dict)
    """How likely a one-shot policy was to choose what it chose; empty where it drew nothing."""
    n_permutations: int = 1
    """Shuffled copies of the prompt, whose rankings were fused."""
    n_windows: int = 1
    """Prompts that the candidates were ranked in; `prompt` is the last, which orders the best of them."""
    refined: Mapping[SentencePattern, str] = field(default_factory=dict)
    rejected: Mapping[SentencePattern, str] = field(default_factory=dict)


class TrainInput(RankInput):
    """A training request; accepted by a graph built for training only."""

    relevant_item_ids: list[ItemId] = Field(min_length=1)
    trial: PromptSpec | None = None
    """A prompt to try instead of asking a policy; how search methods and bandits learn."""
    sentences: dict[SentencePattern, str] = Field(default_factory=dict)
    """Templates that the trial puts in place of the catalogue's sentences."""
    triggers: str = ""
    """Words that the trial puts as the last line."""
    first_sample: int = 0
    """Sample index of the first step; other indices show the candidates in other orders."""
    trace: list[InstanceOf[StepRecord]] = Field(default_factory=list)
    """Steps already done, to continue an episode after the policy was updated between two steps."""


class View(BaseModel):
    """Base of what answers show: the attributes' docstrings are the descriptions in forms and API documents."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ChoiceView(View):
    """One agent's choice, as an answer explains it."""

    action: int
    """The place of the sentence in its pattern."""
    sentence_id: str
    sentence: str
    """As the prompt has it, in the domain's words."""
    probability: float | None = None
    """None where the policy did not draw it."""
    changed: bool = False
    """Whether it differs from the previous step's."""


class StepView(View):
    """One step of an answer: the prompt's make-up and what the model made of it."""

    step: int
    """From 0."""
    prompt_digest: str
    """Two steps with one digest sent the same prompt."""
    history_length: int
    """Interactions that the prompt showed."""
    choices: dict[str, ChoiceView]
    """By pattern."""
    shown: list[str]
    """Item ids in the order the prompt showed them."""
    ranking: list[str]
    """Item ids in the order the model put them in, best first."""
    parse: ParseReport
    """What had to be repaired to read the answer."""
    cached: bool
    """Whether nothing was paid for it now."""
    permutations: int = 1
    """Above 1: so many shuffled copies of the prompt were ranked and fused; `shown` is the first."""
    windows: int = 1
    """Above 1: the candidates did not fit into one prompt and were ranked in so many sliding windows."""
    triggers: str = ""
    """Words that the policy added as the last line."""
    refined: dict[str, str] = Field(default_factory=dict)
    """Sentences that a refiner or a reviewer put in, by pattern."""
    rejected: dict[str, str] = Field(default_factory=dict)
    """Why a refiner's sentence was dropped, by pattern."""


class RankOutput(View):
    """A ranking, and how it came about."""

    user_id: str | int
    """As in the request."""
    items: list[RankedItem]
    """Best first."""
    policy: str
    """The policy that wrote the prompts."""
    version: str
    """Of the policy."""
    model: str
    """The model that put the items in order."""
    steps: list[StepView]
    """One per prompt, in the order they were sent."""
    parse: ParseReport
    """What had to be repaired to read the last step's answer."""
    llm_calls: int
    """Answers this request needed, from the cache or not, plus retries, refinements and the user's profile. Summaries
    of items are not in: they are written once for all requests."""
    profile: str | None = None
    """What a model wrote about the user before the policy chose; None where it wrote nothing that can be read."""
    unread_profile: bool = False
    """Whether a profile was asked for and the answer held none; the prompt then did without."""
    fallback: str | None = None
    """Why another policy served than the one asked for."""


def merge(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> dict[Any, Any]:
    """Reducer of the agents' choices, which arrive side by side."""
    return {**left, **right}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowState:
    """How far a step has come with its windows; as new at the start of every step."""

    done: int = 0
    order: tuple[Item, ...] = ()
    """The candidates, from `windows[done]`'s stop on in their final order; empty before the first window."""
    parse: ParseReport = field(default_factory=ParseReport)
    """Repairs in all windows so far."""
    calls: int = 0
    cached: bool = True
    """Whether all answers so far came from the cache."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the recommender said to one copy of the prompt."""

    prompt: AssembledPrompt
    completion: Completion


@dataclass(kw_only=True)
class RankState:
    """The state between nodes."""

    request: RankRequest
    policy: str = ""
    """The policy that serves, after fallback."""
    fallback: str | None = None
    n_steps: int = 1
    refine: bool = False
    review: bool = False
    observation: Observation | None = None
    """s_t; None for one-shot policies."""
    choices: Annotated[dict[PatternName, AgentChoice], merge] = field(default_factory=dict)
    spec: PromptSpec | None = None
    """A one-shot policy's decision."""
    trial: PromptSpec | None = None
    """In a training graph: the prompt to try instead of asking a policy."""
    sentences: dict[SentencePattern, str] = field(default_factory=dict)
    """Templates that a one-shot policy, a search or a trial puts in place of the catalogue's sentences."""
    triggers: str = ""
    """Words that a one-shot policy, a search or a trial puts as the last line of the user message."""
    propensities: dict[PatternName, float] = field(default_factory=dict)
    """How likely a one-shot policy was to choose what it chose; empty where it drew nothing."""
    written: bool = False
    """Whether a one-shot policy wants the answer written out."""
    profile: str | None = None
    """What the profiler wrote about the user."""
    unread_profile: bool = False
    profile_calls: int = 0
    search_calls: int = 0
    """Calls that the step's prompt was searched with."""
    first_sample: int = 0
    refined: dict[SentencePattern, str] = field(default_factory=dict)
    rejected: dict[SentencePattern, str] = field(default_factory=dict)
    refine_calls: int = 0
    windows: tuple[tuple[int, int], ...] = ()
    """Where each window of candidates starts and stops, in the order they are ranked; one where a prompt holds all."""
    window: WindowState = field(default_factory=WindowState)
    prompt: AssembledPrompt | None = None
    answers: tuple[Answer, ...] = ()
    """To the prompt and its shuffled copies."""
    trace: Annotated[list[StepRecord], add] = field(default_factory=list)
    rewards: Annotated[list[float], add] = field(default_factory=list)
    """One per step, in a training graph only."""
    fused: tuple[str, ...] = ()


@dataclass(kw_only=True)
class TrainOutput:
    """What a training graph returns: the episode, not an answer."""

    request: RankRequest
    trace: list[StepRecord]
    rewards: list[float]


@dataclass(kw_only=True)
class ScoreState:
    """What `score` sees: the only slice of the state with labels."""

    request: RankRequest
    policy: str
    trace: list[StepRecord]
    relevant_item_ids: list[str]
