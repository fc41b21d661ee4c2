"""Which runs a suite needs on one data set: every training once, however many groups evaluate what it learns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from promptailor.app.backends.embedded.folder import shipped_models
from promptailor.app.evaluation import EvaluateConfig
from promptailor.app.job import TrainConfig
from promptailor.app.methods import MethodSpec
from promptailor.app.searches import searching_policy
from promptailor.app.sentences.admit import AdmitConfig
from promptailor.app.sentences.folder import CATALOGUE, SentencesConfig
from promptailor.app.suites.suite import Group, SentencesSpec, Sizes, Suite, SuiteRow, Value
from promptailor.app.trainers import PPO, reinforced_settings
from promptailor.evals.baselines.registry import CLASSIC
from promptailor.evals.protocol import UserSplit
from promptailor.policies.best_of_k import BestOfK
from promptailor.policies.grips import Grips
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import load_catalogue

TRAININGS = "train"
"""Folder of a data set's trainings, beside those of its groups."""
EXTENSIONS = "sentences"
"""Folder of its extended catalogues."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a suite is run on, as the command line says it."""

    suite: Suite
    dataset: str
    model: str
    out: Path
    refiner: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    """By slot, for the groups that compare models."""
    sizes: Sizes = field(default_factory=Sizes)
    """Before the suite's and the groups' own."""
    seeds: tuple[int, ...] = ()
    """In place of the suite's and the groups' own."""
    only: str | None = None

    @property
    def folder(self) -> Path:
        """Of the data set's runs.

        Raises:
            InputError: its name cannot stand in a method string.
        """
        folder = self.out / dataset_name(self.dataset)
        if unfit := next((sign for sign in ",?=@" if sign in str(folder)), None):
            raise InputError(f"--out {self.out}: a {unfit!r} in the name means something else in a list of methods")
        return folder


@dataclass(frozen=True, kw_only=True)
class Extending:
    """One catalogue to extend."""

    id: str
    """Folder, relative to the data set's."""
    propose: SentencesConfig
    admit: AdmitConfig

    @property
    def digest(self) -> str:
        """Of every setting that matters."""
        return settings_digest(self.propose, self.admit)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One policy to learn."""

    id: str
    """Folder, relative to the data set's."""
    config: TrainConfig
    extending: Extending | None = None
    """What makes its catalogue; None where that is there."""

    @property
    def digest(self) -> str:
        """Of every setting that matters."""
        return settings_digest(self.config)


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """A row at one point and seed."""

    row: SuiteRow
    method: str
    """As `evaluate --methods` takes it, with the folder of its training."""
    training: Training | None

    @property
    def calls_per_user(self) -> int:
        """Rankings that a model is asked for, at most: searches end early, and a policy may serve fewer steps."""
        spec = MethodSpec.parse(self.method)
        if spec.name in CLASSIC:
            return 0
        copies = int(spec.serving.get("permutations", self.training.config.permutations if self.training else 1))
        if spec.per_request:
            match searching_policy(spec.name, load_catalogue(), spec.serving):
                case BestOfK(config=best_of_k):
                    return best_of_k.k * best_of_k.cases + copies
                case Grips(config=grips):
                    return (1 + grips.rounds * grips.candidates) * grips.cases + copies
        return copies * int(spec.serving.get("n_steps", _most_steps(self.training)))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Rows to evaluate on the same cases, in one folder."""

    id: str
    """Folder, relative to the data set's."""
    group: Group
    point: Value | None
    seed: int
    rows: tuple[PlannedRow, ...]
    config: EvaluateConfig
    """Of all rows."""

    def config_of(self, rows: tuple[PlannedRow, ...]) -> EvaluateConfig:
        """Return the settings with these rows only; a grown catalogue serves the others' policies too."""
        grown = next((row.training.config.catalogue for row in rows if row.training and row.training.extending), None)
        update = {"methods": ",".join(row.method for row in rows), **({"catalogue": grown} if grown else {})}
        return self.config.model_copy(update=update)

    @property
    def digest(self) -> str:
        """Of every setting that matters, all rows included."""
        return settings_digest(self.config)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every run of a suite on one data set."""

    run: Run
    trainings: tuple[Training, ...]
    evaluations: tuple[Evaluation, ...]
    """Most important first."""
    skipped: tuple[str, ...]
    """What does not apply here, and why."""


def make_plan(run: Run, split: UserSplit) -> Plan:
    """Plan a suite's runs on a data set with these pools of users: the first seed of every group, then the second."""
    evaluations: list[tuple[int, Evaluation]] = []
    skipped: list[str] = []
    for group in run.suite.chosen(run.only):
        if group.datasets and dataset_name(run.dataset) not in group.datasets:
            skipped.append(f"{group.id}: for {', '.join(group.datasets)} only")
            continue
        for point in group.points:
            if group.models and str(point) not in run.models:
                skipped.append(f"{group.id}, {point}: name a model with --models {point}=provider:model")
                continue
            for turn, seed in enumerate(run.seeds or group.seeds or run.suite.seeds):
                evaluation, lacking = _evaluation(run, group, point, seed, split)
                skipped += lacking
                if evaluation:
                    evaluations.append((turn, evaluation))
    in_turn = [evaluation for _, evaluation in sorted(evaluations, key=lambda pair: pair[0])]
    trainings = {row.training.id: row.training for e in in_turn for row in e.rows if row.training}
    return Plan(
        run=run,
        trainings=tuple(trainings.values()),
        evaluations=tuple(in_turn),
        skipped=tuple(dict.fromkeys(skipped)),
    )


def parse_models(text: str | None) -> dict[str, str]:
    """Read `--models open=transformers:PATH,api=openai:NAME`.

    Raises:
        InputError: a part is no SLOT=SPEC, or a slot stands there twice.
    """
    models: dict[str, str] = {}
    for part in filter(None, (text or "").split(",")):
        slot, _, spec = (piece.strip() for piece in part.partition("="))
        if not slot or not spec or ":" in slot or slot in models:
            raise InputError(f"--models {part!r}: write SLOT=provider:model, each slot once, separated by commas")
        models[slot] = spec
    return models


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """Read `--seeds 0,1,2`.

    Raises:
        InputError: something else stands there, or a seed twice.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise InputError(f"--seeds {text!r}: write whole numbers, each once, separated by commas")
    return tuple(int(part) for part in parts)


def dataset_name(dataset: str) -> str:
    """Return what a data set is called in folders and tables: its name, or its spec's."""
    return Path(dataset).stem if Path(dataset).suffix in (".yaml", ".yml") else dataset.casefold()


def shipped_model(dataset: str) -> str | None:
    """Return the embedded model that ships for a data set, None where there is none."""
    name = dataset_name(dataset)
    return f"embedded:{name}" if name in shipped_models() else None


def settings_digest(*configs: TrainConfig | EvaluateConfig | SentencesConfig | AdmitConfig) -> str:
    """Digest what differs from the defaults, so that a setting that is new and not used changes nothing."""
    texts = [config.model_dump_json(exclude_defaults=True, exclude={"budget"}) for config in configs]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:8]


def _most_steps(training: Training | None) -> int:
    stepwise = training is not None and training.config.policy in ("rpp", "rpp+", *PPO)
    return reinforced_settings(training.config)[1].n_steps if training and stepwise else 1


def _evaluation(
    run: Run, group: Group, point: Value | None, seed: int, split: UserSplit
) -> tuple[Evaluation | None, list[str]]:
    sizes = run.sizes.over(group.sizes).over(run.suite.sizes)
    model = run.models[str(point)] if group.models else run.model
    rows: list[PlannedRow] = []
    lacking: list[str] = []
    for row in group.rows_at(point):
        trained = {other.row.label: run.folder / other.training.id for other in rows if other.training}
        if any(label not in trained for label in row.sources.values()):
            continue  # it is said of the source itself why it is not here
        sources = {name: trained[label] for name, label in row.sources.items()}
        training = _training(run, row, sizes, model, seed, group.swept("train", point), sources)
        if training and training.config.users > len(split.train):
            lacking.append(f"{group.id}, {point}: {training.config.users} training users, of {len(split.train)}")
            continue
        rows.append(_planned(run, row, training, group.swept("serve", point)))
    if not rows:
        return None, lacking[:1]
    test_users = min(sizes.test_users or len(split.test), len(split.test))
    config = EvaluateConfig(
        **{
            "methods": ",".join(row.method for row in rows),
            "dataset": run.dataset,
            "model": model,
            "refiner": run.refiner,
            "users": str(test_users),
            "seed": seed,
            **group.evaluate,
            **group.swept("evaluate", point),
        }
    )
    place = [group.id] if point is None else [group.id, str(point)]
    return (
        Evaluation(
            id="/".join([*place, f"seed-{seed}"]), group=group, point=point, seed=seed, rows=tuple(rows), config=config
        ),
        lacking[:1],
    )


def _training(
    run: Run,
    row: SuiteRow,
    sizes: Sizes,
    model: str,
    seed: int,
    swept: Mapping[str, Any],
    sources: Mapping[str, Path],
) -> Training | None:
    if row.train is None:
        return None
    name = row.spec.name
    extending = _extending(run, row.sentences, sizes, model, seed, sources.get("prompt")) if row.sentences else None
    config = TrainConfig(
        **{
            "policy": name,
            "dataset": run.dataset,
            "model": model,
            "refiner": run.refiner if name == "rpp+" else None,
            "seed": seed,
            "catalogue": run.folder / extending.id / CATALOGUE if extending else None,
            **sizes.training,
            **row.train,
            **swept,
            **{field: folder for field, folder in sources.items() if field in TrainConfig.model_fields},
        }
    )
    return Training(id=f"{TRAININGS}/{name}-{settings_digest(config)}", config=config, extending=extending)


def _extending(run: Run, spec: SentencesSpec, sizes: Sizes, model: str, seed: int, prompt: Path | None) -> Extending:
    """Plan an extended catalogue; the refiner of the suite is the critic where the row names none."""
    users = {} if sizes.users is None else {"users": sizes.users}
    given = {"critic": run.refiner, "seed": seed, "prompt": prompt, **users, **spec.propose}
    propose = SentencesConfig(**{"dataset": run.dataset, "model": model, **given})
    admit = AdmitConfig(**spec.admit)
    return Extending(id=f"{EXTENSIONS}/{settings_digest(propose, admit)}", propose=propose, admit=admit)


def _planned(run: Run, row: SuiteRow, training: Training | None, swept: Mapping[str, Any]) -> PlannedRow:
    spec = row.spec
    serving = {**spec.serving, **{name: str(value) for name, value in swept.items()}}
    folder = f"={run.folder / training.id}" if training else ""
    return PlannedRow(
        row=row,
        method=f"{spec.label}{folder}{'?' + urlencode(serving) if serving else ''}",
        training=training,
    )
