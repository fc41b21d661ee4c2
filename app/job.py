"""A training run's settings, its parts, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console, ConsoleOptions, RenderResult

from promptailor.app.backends.budget import Spending
from promptailor.app.run_folder import TrainingFolder
from promptailor.app.wiring import RANDOM, Workspace
from promptailor.graph.context import Context
from promptailor.graph.state import TrainInput
from promptailor.policies.acceptance import AcceptRule
from promptailor.policies.base import PromptPolicy
from promptailor.policies.checkpoint import PolicyManifest
from promptailor.policies.lineage import Lineage
from promptailor.policies.manual import Stopped
from promptailor.policies.pap_rec.state import SearchConfig
from promptailor.policies.profiling import SEQUENCE_LENGTH
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.returns import Objective
from promptailor.policies.types import Pooling, StateKind
from promptailor.policies.white_box import VocabularyKind
from promptailor.prompts.errors import SpecError
from promptailor.prompts.patterns import PATTERNS, PatternName

Preset = Literal["default", "on-policy", "paper"]
"""The default learns from all calls so far; `on-policy` is A2C with the usual remedies; `paper` is RPP as published."""


class AgpConfig(BaseModel):
    """What only AGP has to be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profiler: str | None = None
    """Model that describes users and items; the recommender where empty, as for the critic."""
    critic: str | None = None
    """Model that criticises, generalises and rewrites."""
    batch: int = Field(10, ge=1)
    """Users per round; AGP's best, as the sequence length."""
    sequence_length: int = Field(SEQUENCE_LENGTH, ge=1)
    """Most recent items that a profile is written from."""
    accept: AcceptRule = "test"
    summaries: bool = True
    """Whether items are summarised."""
    position_feedback: bool = True
    """Whether critic and rewriter are told ranks."""
    profile: bool = True
    """Whether profiles are written; without, the sentence that ranks is improved."""
    patience: int = Field(5, ge=1)
    """Rounds in a row without an accepted rewrite, after which training stops."""

    @classmethod
    def of(cls, policy: str, **given: Any) -> AgpConfig | None:
        """Return the settings with what was given in place of the defaults; None where nothing is for AGP."""
        settings = {name: value for name, value in given.items() if value is not None}
        return cls(**settings) if settings or policy == "agp" else None


class PapRecConfig(SearchConfig):
    """What only PAP-REC has to be told."""

    vocabulary: VocabularyKind = "words"
    warm: int = Field(0, ge=0)
    """The first so many test users get words of their own, searched on their second-to-last item."""
    task: Literal["sequential", "direct", "explanation"] = "sequential"
    """Rank behind a history, or without one."""

    @classmethod
    def of(cls, policy: str, **given: Any) -> PapRecConfig | None:
        """Return the settings with what was given in place of the defaults; None where nothing is for PAP-REC."""
        settings = {name: value for name, value in given.items() if value is not None}
        return cls(**settings) if settings or policy == "pap-rec" else None


class TrainConfig(BaseModel):
    """Everything a training run depends on; `config.json` of its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    dataset: str
    model: str
    refiner: str | None = None
    users: int = 200
    seed: int = 0
    preset: Preset = "default"
    n_candidates: int = 10
    candidates_from: str = RANDOM
    """Where the negatives come from: chance, a baseline's name, or a file of published lists."""
    calls: int = 3_000
    """User-steps to learn from, those on validation users included."""
    permutations: int = 1
    """Shuffled copies of each prompt, each a call of its own."""
    budget: str | None = None
    catalogue: Path | None = None

    # For ablations; what is left empty is the preset's own
    personalise: tuple[PatternName, ...] = ()
    """Patterns that vary; the others keep the manual prompt's sentence and length. Empty: the paper's four."""
    profile: bool = False
    """Whether the user's profile varies too, as the fifth pattern."""
    pooling: Pooling | None = None
    state: StateKind | None = None
    objective: Objective | None = None
    steps: int | None = Field(None, ge=1, le=50)
    """T, prompts per episode."""
    sentences: int | None = Field(None, ge=1)
    """Only the first so many sentences of each sentence pattern are actions."""

    agp: AgpConfig | None = None
    """None for other policies."""
    profile_from: Path | None = None
    """An AGP run by whose instruction every user's profile is written, to be shown or not as the fifth pattern."""

    pap_rec: PapRecConfig | None = None
    """None for other policies."""

    reward_from: Path | None = None
    """A training run whose rewards are learned from, by a model that answers in the recommender's place: no call."""

    @property
    def patterns(self) -> tuple[PatternName, ...]:
        """The patterns that vary, in the catalogue's order."""
        chosen = {*(self.personalise or PATTERNS), *(("user_profile",) if self.profile else ())}
        return tuple(pattern for pattern in get_args(PatternName) if pattern in chosen)

    @classmethod
    def parse_patterns(cls, text: str | None) -> tuple[PatternName, ...]:
        """Read `--personalise`; an unknown pattern is a `SpecError` that lists the known ones."""
        known: tuple[PatternName, ...] = get_args(PatternName)
        names = [name.strip().replace("-", "_") for name in (text or "").split(",") if name.strip()]
        if unknown := [name for name in names if name not in known]:
            raise SpecError(f"--personalise {unknown[0]!r}: no such pattern; there are {', '.join(known)}")
        return tuple(pattern for pattern in known if pattern in names)

    @property
    def validation_users(self) -> int:
        """Half as many as training users, at most a hundred: validation is paid from the same calls."""
        return min(100, max(2, self.users // 2))


class TrainSummary(BaseModel):
    """What a training run did."""

    folder: Path
    policy: str
    stopped: Stopped
    n_steps: int
    """Calls per served request, chosen on validation users."""
    validation_reward: float | None
    """Mean NDCG of the served ranking on validation users; what was selected on, so it is optimistic."""
    user_steps: int
    llm_requests: int
    """Requests really sent, by every part of a resumed run; repeated prompts come from the response store."""
    cache_hits: int
    """Answers of this process that had been paid for before, by this run or by a recorded one."""
    tokens: int
    """Input and output tokens of those requests, as the model counts them."""
    usd: float
    """What they cost, by the table of prices."""
    projected: Spending
    """What was foreseen before the run."""
    encoder_calls: int
    """Texts that went through the sentence encoder in this process; a replay has none."""
    notes: tuple[str, ...] = ()
    """What else there is to say of it, a line each."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in two lines."""
        reward = "" if self.validation_reward is None else f", validation NDCG {self.validation_reward:.3f}"
        money = f", ${self.usd:,.2f}" if self.usd else ""
        cost = (
            f"{self.user_steps:,} user-steps, {self.llm_requests:,} requests ({self.cache_hits:,} answers from the "
            f"store), {self.tokens:,} tokens{money}"
        )
        yield f"{self.policy}: {self.stopped} after {cost}{reward}"
        yield from self.notes
        yield f"saved in {self.folder}; serves with {self.n_steps} step(s)"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run's parts, made once."""

    config: TrainConfig
    folder: TrainingFolder
    workspace: Workspace
    train: list[TrainInput]
    validation: list[TrainInput]
    context: Context

    @property
    def space(self) -> PromptSpace:
        """The prompts that a one-shot method may choose."""
        return PromptSpace(self.workspace.catalogue, patterns=self.config.patterns, sentences=self.config.sentences)

    @property
    def initial_length(self) -> int:
        """History length at t = 0."""
        return self.workspace.catalogue.history_records.initial_length

    def save(
        self,
        policy: PromptPolicy,
        *,
        n_steps: int,
        stopped: Stopped,
        user_steps: int,
        fusion_weights: tuple[float, ...] = (),
        warm_users: tuple[str, ...] = (),
        lineage: Lineage | None = None,
    ) -> None:
        """Save a policy with everything that is needed to load it safely."""
        workspace, config = self.workspace, self.config
        self.folder.save_policy(
            policy,
            PolicyManifest(
                name=config.policy,
                seed=config.seed,
                train_users=tuple(str(user.user_id) for user in self.train),
                validation_users=tuple(str(user.user_id) for user in self.validation),
                catalogue_digest=workspace.catalogue.digest,
                dataset=workspace.dataset.name,
                dataset_digest=workspace.dataset.digest,
                model=workspace.recommender.spec,
                refiner=workspace.refiner_port.spec if workspace.refiner_port else None,
                n_steps=n_steps,
                permutations=self.config.permutations,
                fusion_weights=fusion_weights,
                warm_users=warm_users,
                profiling=policy.info.profiling or workspace.profiling,
                rewrites_proposed=lineage.proposed if lineage else 0,
                rewrites_accepted=lineage.n_accepted if lineage else 0,
                stopped=stopped,
                calls=user_steps,
            ),
            lambda: workspace.embeddings,
        )

    def finish(
        self, stopped: Stopped, n_steps: int, reward: float | None, user_steps: int, projected: Spending
    ) -> TrainSummary:
        """Say what was done."""
        spent = self.workspace.store.spending
        return TrainSummary(
            folder=self.folder.path,
            policy=self.config.policy,
            stopped=stopped,
            n_steps=n_steps,
            validation_reward=reward,
            user_steps=user_steps,
            llm_requests=spent.calls,
            cache_hits=self.workspace.store.hits,
            tokens=spent.tokens,
            usd=spent.usd,
            projected=projected,
            encoder_calls=self.workspace.encoder.calls,
        )
