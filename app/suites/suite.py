"""What a suite is: groups of rows that are evaluated on the same cases, and the tables and figures made of them.

A suite is data: a YAML file, checked on load down to the settings of every training run in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from promptailor.app.evaluation import EvaluateConfig
from promptailor.app.job import TrainConfig
from promptailor.app.methods import LEARNED, TRIGGER_SETTINGS, MethodSpec, parse_methods
from promptailor.app.searches import search_settings, searching_policy
from promptailor.app.sentences.admit import AdmitConfig
from promptailor.app.sentences.folder import SentencesConfig
from promptailor.app.trainers import TRAINERS, check_policy
from promptailor.evals.exhibit_runs import COSTS
from promptailor.evals.exhibits import ExhibitKind
from promptailor.evals.metrics import PRIMARY, chance
from promptailor.graph.context import Context
from promptailor.policies.pap_rec.policy import NAME as PAP_REC
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError, SpecError
from promptailor.prompts.patterns import load_catalogue

Value = bool | int | float | str
"""A setting's value."""
_ANY = {"dataset": "any", "model": "any:model"}
"""Stands for what a suite is run on while its settings are checked."""


class Sizes(Model):
    """How much a run takes; None leaves it to whoever is asked next, at last to `TrainConfig`'s own defaults."""

    users: int | None = Field(None, ge=1)
    """Training users."""
    calls: int | None = Field(None, ge=1)
    """LLM calls that everything learns from."""
    test_users: int | None = Field(None, ge=1)
    """All there are where there are fewer."""

    def over(self, other: Sizes) -> Sizes:
        """Return these sizes, and the other's where there is none."""
        return other.model_copy(update=self.model_dump(exclude_none=True))

    @property
    def training(self) -> dict[str, int]:
        """Those that are fields of `TrainConfig`."""
        return self.model_dump(exclude_none=True, exclude={"test_users"})


class Sweep(Model):
    """One setting over several values; a value may set a field of training, evaluation and serving alike."""

    name: str
    """What the axis is called."""
    values: tuple[Value, ...] = Field(min_length=2)
    train: str | None = None
    """Field of `TrainConfig`."""
    evaluate: str | None = None
    """Field of `EvaluateConfig`."""
    serve: str | None = None
    """Field of `Context`."""

    @model_validator(mode="after")
    def _sets_something(self) -> Self:
        targets: tuple[tuple[str, str | None, Mapping[str, object]], ...] = (
            ("train", self.train, TrainConfig.model_fields),
            ("evaluate", self.evaluate, EvaluateConfig.model_fields),
            ("serve", self.serve, Context.model_fields),
        )
        if all(name is None for _, name, _ in targets):
            raise ValueError("a sweep sets a field of train, evaluate or serve")
        for kind, name, fields in targets:
            if name is not None and name not in fields:
                raise ValueError(f"{kind}: {name!r} is no setting; there are {', '.join(fields)}")
        if len(set(self.values)) != len(self.values):
            raise ValueError("values: each once")
        return self


class SentencesSpec(Model):
    """How a row's catalogue is extended before it is trained: what of `SentencesConfig` and `AdmitConfig` differs."""

    propose: dict[str, Any] = Field(default_factory=dict)
    admit: dict[str, Any] = Field(default_factory=dict)
    prompt: str | None = None
    """Label of an earlier row whose single prompt sentences are tried in; None for the manual one."""

    @model_validator(mode="after")
    def _settings_exist(self) -> Self:
        try:
            SentencesConfig(**{**_ANY, **self.propose})
            AdmitConfig(**self.admit)
        except ValidationError as error:
            raise ValueError(f"sentences: {_first(error)}") from None
        if self.admit.get("gate", "test") != "test":
            raise ValueError("sentences: gate: a suite asks nobody; take `test`")
        return self


class SuiteRow(Model):
    """One method of a group."""

    label: str
    """How tables call it."""
    method: str
    """As `evaluate --methods` takes it, without the folder of a learned one: `NAME[@VARIANT][?fusion=rrf]`."""
    train: dict[str, Any] | None = None
    """What of `TrainConfig` differs from the suite's sizes; None where nothing is trained."""
    reward_from: str | None = None
    """Label of an earlier row of the group: its training run's rewards are learned, and answer in the LLM's place."""
    profile_from: str | None = None
    """Label of an earlier row of the group: its AGP run writes the profiles that the fifth pattern shows."""
    sentences: SentencesSpec | None = None
    """How its catalogue is extended; None where it is trained with the one there is."""
    values: tuple[Value, ...] = ()
    """Those of the group's sweep that the row takes part in; empty for all."""

    @property
    def sources(self) -> dict[str, str]:
        """Labels of the rows whose folders it learns from, by what they are to it."""
        named = {
            "reward_from": self.reward_from,
            "profile_from": self.profile_from,
            "prompt": self.sentences.prompt if self.sentences else None,
        }
        return {name: label for name, label in named.items() if label is not None}

    @property
    def spec(self) -> MethodSpec:
        """The method, parsed."""
        return MethodSpec.parse(self.method)

    @model_validator(mode="after")
    def _method_exists(self) -> Self:
        spec = self.spec
        if spec.folder is not None:
            raise ValueError(f"method {self.method!r}: names a folder; the runner does, of what `train` makes")
        if "," in self.method:
            raise ValueError(f"method {self.method!r}: one method per row")
        if self.train is None and (self.sources or self.sentences):
            what = next(iter(self.sources), "sentences")
            raise ValueError(f"method {self.method!r}: {what}: nothing is trained; write `train: {{}}`")
        for name in ("reward_from", "profile_from", "catalogue"):
            if self.train is not None and name in self.train:
                beside = "sentences" if name == "catalogue" else name
                raise ValueError(f"train: {name}: write `{beside}` beside `train`, not in it; its folder is found")
        if self.train is None and spec.name in LEARNED:
            raise ValueError(f"method {spec.name!r} is learned; write `train: {{}}` or the settings that differ")
        if self.train is not None and spec.name not in TRAINERS:
            raise ValueError(f"method {spec.name!r} is not trained; there are {', '.join(TRAINERS)}")
        try:
            parse_methods(self.method if self.train is None else f"{spec.label}=folder")
            own = {}
            if spec.per_request:
                searching_policy(spec.name, load_catalogue(), spec.serving)
                own = search_settings(spec.name, spec.serving)
            if spec.name == PAP_REC:
                own = dict.fromkeys(TRIGGER_SETTINGS, "")
            Context.model_validate({name: value for name, value in spec.serving.items() if name not in own})
        except SpecError as error:
            raise ValueError(str(error).removeprefix("--methods ")) from None
        except ValidationError as error:
            raise ValueError(f"method {self.method!r}: {_first(error)}") from None
        return self


class ExhibitSpec(Model):
    """A table or figure that is made of a group's rows."""

    id: str
    title: str
    kind: ExhibitKind = "table"
    measures: tuple[str, ...] = (PRIMARY,)
    rows: tuple[str, ...] = ()
    """Labels, in the order shown; empty for all of the group's."""
    compare: tuple[tuple[str, str], ...] = ()
    """Labels (a, b) planned to be compared."""
    differs: str = ""
    """What of the protocol differs from the paper's."""

    @field_validator("measures")
    @classmethod
    def _known(cls, measures: tuple[str, ...]) -> tuple[str, ...]:
        known = (*chance(2), *COSTS)
        if unknown := [name for name in measures if name not in known]:
            raise ValueError(f"{unknown[0]!r}: unknown; there are {', '.join(known)}")
        return measures


class Group(Model):
    """Rows that are evaluated together: the same users, candidates and order of candidates for each."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Name of its folder."""
    title: str
    rows: tuple[SuiteRow, ...] = Field(min_length=1)
    exhibits: tuple[ExhibitSpec, ...] = ()
    sizes: Sizes = Sizes()
    seeds: tuple[int, ...] = ()
    """The suite's where empty."""
    sweep: Sweep | None = None
    models: dict[str, str] = Field(default_factory=dict)
    """Slots that models are given for when the suite is run, and what rows are marked with; empty: the suite's one."""
    evaluate: dict[str, Any] = Field(default_factory=dict)
    """What of `EvaluateConfig` differs."""
    datasets: tuple[str, ...] = ()
    """Those that have what it needs; empty for all."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = [row.label for row in self.rows]
        names = [row.spec.label for row in self.rows]
        for what, seen in (("label", labels), ("method", names)):
            if twice := sorted({name for name in seen if seen.count(name) > 1}):
                raise ValueError(f"group {self.id}: two rows have the {what} {twice[0]!r}; write NAME@VARIANT")
        for exhibit in self.exhibits:
            if unknown := [row for row in exhibit.rows if row not in labels]:
                raise ValueError(f"group {self.id}, {exhibit.id}: {unknown[0]!r} is no row of the group")
            if unknown := [row for row in sum(exhibit.compare, ()) if row not in (exhibit.rows or labels)]:
                raise ValueError(f"group {self.id}, {exhibit.id}: compare: {unknown[0]!r} is no row of it")
        for place, row in enumerate(self.rows):
            trained = [other.label for other in self.rows[:place] if other.train is not None]
            for what, source in row.sources.items():
                if source not in trained:
                    raise ValueError(f"group {self.id}, {row.label}: {what}: no earlier row {source!r} is trained")
        if len({row.sentences.model_dump_json() for row in self.rows if row.sentences}) > 1:
            raise ValueError(f"group {self.id}: sentences: one extended catalogue per group; make two groups")
        if self.sweep and self.models:
            raise ValueError(f"group {self.id}: has a sweep and models; make two groups")
        for row in self.rows:
            if unknown_values := [v for v in row.values if not self.sweep or v not in self.sweep.values]:
                raise ValueError(f"group {self.id}, {row.label}: {unknown_values[0]!r} is no value of the sweep")
        self._check_settings()
        return self

    @property
    def points(self) -> tuple[Value | None, ...]:
        """Values of the sweep, or slots of models; one None where there is neither."""
        return (self.sweep.values if self.sweep else tuple(self.models)) or (None,)

    def swept(self, kind: str, point: Value | None) -> dict[str, Any]:
        """Return what a point sets of the settings of `train`, `evaluate` or `serve`."""
        name: str | None = getattr(self.sweep, kind) if self.sweep else None
        return {name: point} if name else {}

    def rows_at(self, point: Value | None) -> tuple[SuiteRow, ...]:
        """Return the rows that take part at a point."""
        return tuple(row for row in self.rows if not row.values or point in row.values)

    def _check_settings(self) -> None:
        for point in self.points:
            try:
                EvaluateConfig(**{"methods": "manual", **_ANY, **self.evaluate, **self.swept("evaluate", point)})
                Context.model_validate(self.swept("serve", point))
            except ValidationError as error:
                raise ValueError(f"group {self.id}: evaluate: {_first(error)}") from None
            for row in self.rows_at(point):
                if row.train is None:
                    continue
                try:
                    from_rows = {name: Path(label) for name, label in row.sources.items() if name == "profile_from"}
                    settings = {**_ANY, **row.train, **from_rows, **self.swept("train", point)}
                    check_policy(TrainConfig(**{"policy": row.spec.name, **settings}))
                except (ValidationError, SpecError) as error:
                    reason = _first(error) if isinstance(error, ValidationError) else str(error)
                    raise ValueError(f"group {self.id}, {row.label}: train: {reason}") from None


class Suite(Model):
    """Everything that a set of tables and figures is made of."""

    name: str
    about: str
    """One paragraph on top of the page."""
    datasets: tuple[str, ...] = ()
    """In the order of the tables' columns."""
    sizes: Sizes = Sizes()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    groups: tuple[Group, ...] = Field(min_length=1)
    """The most important first."""

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for what, seen in (
            ("groups", [group.id for group in self.groups]),
            ("exhibits", [exhibit.id for group in self.groups for exhibit in group.exhibits]),
        ):
            if twice := sorted({name for name in seen if seen.count(name) > 1}):
                raise ValueError(f"two {what} are called {twice[0]!r}")
        return self

    def chosen(self, only: str | None) -> Iterator[Group]:
        """Return the groups of a comma-separated list, in the suite's order; all for None.

        Raises:
            InputError: a name is unknown.
        """
        names = [name.strip() for name in (only or "").split(",") if name.strip()]
        known = [group.id for group in self.groups]
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"--only {unknown[0]!r}: no group of {self.name}; there are {', '.join(known)}")
        return (group for group in self.groups if not names or group.id in names)


def known_suites() -> tuple[str, ...]:
    """Return the names of the suites that ship with the package."""
    files = resources.files("promptailor.app.suites").iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def load_suite(name_or_path: str) -> Suite:
    """Load and check a suite.

    Args:
        name_or_path: a known name, or the path of a YAML file.

    Raises:
        InputError: the name is unknown, or the file cannot be read or fails a check; the message names the field.
    """
    path = Path(name_or_path)
    if name_or_path in known_suites():
        text = resources.files("promptailor.app.suites").joinpath(f"{name_or_path}.yaml").read_text("utf-8")
    elif path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--suite {path}: cannot be read ({error})") from None
    else:
        known = ", ".join(known_suites())
        raise InputError(f"--suite {name_or_path!r}: unknown; there are {known}, or give the path of a .yaml file")
    try:
        return Suite.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InputError(f"--suite {name_or_path}: not YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        raise InputError(f"--suite {name_or_path}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
