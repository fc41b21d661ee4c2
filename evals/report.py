"""What a run found, as one typed object: `report.json` is its dump, and the pages are made from nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from promptailor.evals.decomposition import Decomposition
from promptailor.evals.metrics import PRIMARY
from promptailor.evals.statistics import Comparison, Estimate
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError

SINGLE_PROMPTS = ("enumeration", "manual")
"""Methods that give every user the same prompt, the strongest first."""


class MethodResult(BaseModel):
    """One method over all users; besides the fields, one `Estimate` per measure, keyed `ndcg@10` and so on."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Estimate] = Field(init=False)

    n_users: int
    llm_calls: int
    """Model answers over all users."""
    invalid_rate: float
    """Share of users with an answer that had to be repaired."""
    rejected_rewrite_rate: float | None
    """Share of a refiner's rewrites that failed a guard; None where nothing was rewritten."""
    seconds: float

    @property
    def measures(self) -> dict[str, Estimate]:
        """The estimates by measure."""
        return self.__pydantic_extra__

    @property
    def primary(self) -> Estimate:
        """The estimate of the primary measure."""
        return self.__pydantic_extra__[PRIMARY]


class SlotScore(Model):
    """The primary measure over the users whose relevant item stood in one slot."""

    slot: int
    n_users: int
    score: Estimate


class SlotProfile(Model):
    """Whether a method depends on where the relevant item stands."""

    order: Literal["shown", "canonical"]
    """Whether `slot` counts places of the last prompt, or of the canonical order where no prompt was made."""
    slots: tuple[SlotScore, ...]


class SentenceShare(Model):
    """How many users got one sentence (or history length) in their last prompt."""

    label: str
    n_users: int


class CurvePoint(BaseModel):
    """One row of a training run's `training.jsonl`; its other columns are not read."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    calls: int
    mean_reward: float
    validation: float | None = None


class Split(Model):
    """Who was used for what. No user may be both trained and tested on, outside the warm protocol."""

    train_users: tuple[str, ...] = ()
    """Union over the methods."""
    validation_users: tuple[str, ...] = ()
    test_users: tuple[str, ...] = ()
    warm_users: tuple[str, ...] = ()
    """Test users whose second-to-last item a method searched on, as the warm protocol has it."""

    @model_validator(mode="after")
    def _disjoint(self) -> Split:
        if both := (set(self.train_users) & set(self.test_users)) - set(self.warm_users):
            raise InputError(
                f"test_users: {len(both)} user(s) were trained on, {min(both)!r} among them; evaluate other users"
            )
        return self


class Environment(Model):
    """What somebody needs to make the run again."""

    command: str | None = None
    commit: str | None = None
    started_at: str | None = None
    """ISO 8601."""
    model: str | None = None
    """The model's spec; None where no method called one."""
    dataset: str | None = None
    dataset_digest: str | None = None
    catalogue_digest: str | None = None
    seed: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    """Distribution to version."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Every other setting that the numbers depend on."""


class EvalReport(Model):
    """The findings of one run."""

    schema_version: Literal[1] = 1
    incomplete: str | None = None
    """Why the run stopped early; None where it is complete."""
    methods: dict[str, MethodResult]
    controls: dict[str, MethodResult] = Field(default_factory=dict)
    chance: dict[str, float]
    """Expected measures of a random ranking of the same candidates; users whose relevant item is not there count 0."""
    recall: float = 1.0
    """Share of users whose relevant item is among their candidates, below 1 where these were retrieved; no ranking of
    them scores more."""
    decomposition: Decomposition | None = None
    paired: tuple[Comparison, ...] = ()
    """On the primary measure."""
    verdicts: tuple[str, ...] = ()
    slot_profiles: dict[str, SlotProfile] = Field(default_factory=dict)
    sentences: dict[str, dict[str, tuple[SentenceShare, ...]]] = Field(default_factory=dict)
    """Method to pattern to shares."""
    learning_curves: dict[str, tuple[CurvePoint, ...]] = Field(default_factory=dict)
    split: Split
    environment: Environment

    @property
    def retriever(self) -> str | None:
        """Where the candidates were retrieved; None where the protocol added each relevant item to them."""
        settings = self.environment.settings
        return str(settings["candidates_from"]) if settings.get("retrieve") else None

    @property
    def headlines(self) -> tuple[Comparison, ...]:
        """The planned comparisons; where none was planned, those with the best single prompt, then with popularity."""
        if planned := tuple(c for c in self.paired if c.planned):
            return planned
        references = (best_single_prompt(self.methods), "popularity")
        return tuple(c for reference in references for c in self.paired if c.b == reference)


def best_single_prompt(methods: Iterable[str]) -> str | None:
    """Return the strongest of the listed methods that give every user one prompt; None where there is none."""
    return next((name for name in SINGLE_PROMPTS if name in set(methods)), None)


class RunInfo(Model):
    """What a report says of a run beyond its records."""

    environment: Environment = Environment()
    validation_users: tuple[str, ...] = ()
    warm_users: tuple[str, ...] = ()
    comparisons: tuple[tuple[str, str], ...] | None = None
    """Pairs (a, b) planned before the run, which verdicts are then about; all others are compared as well."""
    action_names: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Per pattern, what each action is called in plots."""
    decomposition: Decomposition | None = None
    learning_curves: dict[str, tuple[CurvePoint, ...]] = Field(default_factory=dict)


def read_report(folder: Path) -> EvalReport:
    """Read a run's `report.json`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / "report.json"
    try:
        return EvalReport.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the folder of a run that `evaluate` wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def read_learning_curve(path: Path) -> tuple[CurvePoint, ...]:
    """Read a training run's `training.jsonl`.

    Raises:
        InputError: a row cannot be read.
    """
    try:
        return tuple(CurvePoint.model_validate_json(line) for line in path.read_text("utf-8").splitlines() if line)
    except ValidationError as error:
        raise InputError(f"{path}: {error.errors()[0]['msg']}; every row needs epoch, calls and mean_reward") from None
