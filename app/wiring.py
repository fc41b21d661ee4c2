"""Settings and names become objects: data set, models, embeddings, policies, graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from promptailor.app.backends import ModelSpec
from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect, content_spec
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.replay import REPLAY
from promptailor.app.backends.store import STORE_FILE, ResponseStore
from promptailor.app.encoder import SentenceEncoder
from promptailor.app.progress import progress_bar
from promptailor.app.run_folder import EMBEDDINGS, POLICY
from promptailor.app.settings import Settings
from promptailor.app.tracing import start_tracing
from promptailor.evals.baselines.base import ItemScorer
from promptailor.evals.baselines.order import Identity
from promptailor.evals.baselines.registry import CLASSIC, BaselineInputs
from promptailor.evals.candidates import CandidateSource, PublishedLists, Retriever
from promptailor.evals.datasets import Dataset, is_present, known_datasets, load_dataset, load_spec
from promptailor.evals.planted import PlantedWorld
from promptailor.evals.planted_profiles import any_world
from promptailor.evals.protocol import HoldOut, UserSplit, make_cases, split_users
from promptailor.evals.types import EvalCase
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.resources import DEFAULT_DOMAIN, Resources
from promptailor.graph.state import TrainInput
from promptailor.policies.base import PromptPolicy
from promptailor.policies.checkpoint import load_policy, read_manifest
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.manual import manual_policies
from promptailor.policies.profiling import Profiling
from promptailor.prompts.errors import CheckpointError, DataError, SpecError
from promptailor.prompts.patterns import Catalogue, load_catalogue

PLANTED = "planted"
RANDOM = "random"
"""`candidates_from`: negatives are drawn among the items that the user never touched."""
PLANTED_USERS = 1_400
"""Users of a planted data set: 200 to train on, 500 new ones to test on, and some to validate."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One data set, one pair of models, and what both share."""

    settings: Settings
    dataset_name: str | None
    """None where only requests that carry their titles are served."""
    model: str | None
    """The recommender's spec; None where no method calls an LLM."""
    refiner: str | None = None
    seed: int = 0
    candidates_from: str = RANDOM
    """Where negatives come from: chance, a baseline's name, or a file of published lists."""
    retrieve: bool = False
    """Whether candidates are what `candidates_from` retrieves, the target among them or not."""
    profiling: Profiling | None = None
    """What is written about users for policies that say nothing of it themselves; for training on profiles."""
    catalogue: Catalogue = field(default_factory=load_catalogue)
    store: ResponseStore = field(default_factory=ResponseStore)
    budget: Budget = field(default_factory=Budget)
    _opened: dict[str, ModelPort] = field(default_factory=dict)

    @cached_property
    def answering(self) -> ModelSpec | None:
        """The model whose answers count: of a replay the recorded one; None where no method calls an LLM."""
        if self.model is None:
            return None
        spec = content_spec(self.model)
        return ModelSpec.parse(self.recommender.spec) if spec.provider == REPLAY else spec

    @cached_property
    def world(self) -> PlantedWorld | None:
        """The planted world, where the data set is one; its model may also be served by another process."""
        name = _world_name(self.answering) if self.answering else "1"
        if self.dataset_name != PLANTED:
            if name and self.answering and self.dataset_name:
                raise SpecError(f"--model {self.answering}: a simulated model goes with --dataset planted")
            return None
        if name is None:
            raise SpecError("--dataset planted: needs --model planted:1 to planted:5, null, agp or agp-null")
        return any_world(name)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, loaded and checked."""
        if self.dataset_name is None:
            raise SpecError("--dataset: this needs a data set; name one, such as ml-100k")
        if self.world is not None:
            return self.world.dataset(PLANTED_USERS, self.seed)
        return _read_dataset(self.dataset_name, self.settings.data_dir)

    @cached_property
    def split(self) -> UserSplit:
        """The disjoint pools of users."""
        return split_users(self.dataset)

    @cached_property
    def encoder(self) -> SentenceEncoder:
        """The sentence encoder; its embeddings are kept in the response store."""
        return SentenceEncoder(store=self.store)

    @cached_property
    def embeddings(self) -> ItemEmbeddings:
        """LightGCN item embeddings of the training interactions, trained once per data set and kept."""
        from promptailor.policies.lightgcn import train_item_embeddings  # noqa: PLC0415 - imports torch

        folder = self.settings.home / "embeddings" / self.dataset.digest[:16]
        if (folder / "manifest.json").is_file():
            return ItemEmbeddings.load(folder, encoder=self.encoder)
        embeddings = train_item_embeddings(
            self.dataset.training_sequences(), encoder=self.encoder, items=self.dataset.items
        )
        embeddings.save(folder)
        return embeddings

    @cached_property
    def recommender(self) -> ModelPort:
        """The recommender behind its port."""
        if self.model is None:
            raise SpecError("--model: a method that calls an LLM was asked for; name a model, such as embedded:ml-100k")
        return self.port(self.model)

    @cached_property
    def refiner_port(self) -> ModelPort | None:
        """The refiner behind its port; the recommender's own where both have one spec."""
        if self.refiner is None:
            return None
        return self.recommender if self.refiner == self.model else self.port(self.refiner)

    def role_port(self, spec: str | None) -> ModelPort:
        """Return the model of a role; the recommender where it has none of its own, or the same."""
        if spec in (None, self.model):
            return self.recommender
        assert spec is not None, "just looked"
        if spec not in self._opened:
            self._opened[spec] = self.port(spec)
        return self._opened[spec]

    def require_profiles(self, what: str) -> None:
        """Raise `DataError` where the data set has no user profiles; `what` asks for them."""
        if not self.dataset.profiles:
            raise DataError(
                f"{what}: {self.dataset.name} has no user profiles; ml-1m and ml-100k have, or add `users` to its spec"
            )

    @property
    def baseline_inputs(self) -> BaselineInputs:
        """What the methods that call no LLM are made from."""
        return BaselineInputs(
            dataset=self.dataset,
            seed=self.seed,
            encoder=self.encoder,
            models=self.settings.home / "baselines",
            others=self._other_datasets,
            progress=progress_bar,
        )

    def _other_datasets(self) -> list[Dataset]:
        """Load the known data sets that are here, without this one."""
        others = []
        for name in known_datasets():
            spec = load_spec(name, self.catalogue)
            if name != self.dataset.name and is_present(spec, self.settings.data_dir):
                others.append(load_dataset(spec, self.settings.data_dir))
        return others

    @cached_property
    def source(self) -> CandidateSource | None:
        """Where candidates come from; None for random negatives."""
        name = self.candidates_from
        if name == RANDOM:
            if self.retrieve:
                raise SpecError("--retrieve: name a retriever, such as --candidates-from bm25")
            return None
        if name in CLASSIC:
            scorer = CLASSIC[name](self.baseline_inputs)
            if isinstance(scorer, ItemScorer) and not isinstance(scorer, Identity):
                return Retriever(scorer, self.dataset)
        elif Path(name).is_file():
            return PublishedLists(Path(name), self.dataset)
        known = ", ".join(known for known in CLASSIC if known != Identity.name)
        raise SpecError(f"--candidates-from {name}: no such file or retriever; retrievers are {known}")

    def port(self, spec: str) -> ModelPort:
        """Put the model that a string names behind cache and budget."""
        return connect(spec, settings=self.settings, store=self.store, budget=self.budget)

    def load_policy(self, run: Path) -> PromptPolicy:
        """Load the policy of a training run with the embeddings it was trained on.

        Raises:
            CheckpointError: it was trained with another catalogue or model, or is damaged.
        """
        trained = ModelSpec.parse(read_manifest(run / POLICY).model)
        used = self.answering or trained
        if (used.provider, used.model) != (trained.provider, trained.model):
            raise CheckpointError(f"{run}: was trained with --model {trained}, not {used}; pass it, or train again")
        return load_policy(
            run / POLICY,
            catalogue=self.catalogue,
            embeddings=lambda: ItemEmbeddings.load(run / EMBEDDINGS, encoder=self.encoder),
            encoder=self.encoder,
        )

    def resources(self, policies: Mapping[str, PromptPolicy] | None = None) -> Resources:
        """Bundle what a rank graph needs, and begin to trace where the environment says so."""
        start_tracing(self.settings)
        named = {**manual_policies(self.catalogue), **(policies or {})}
        profiling = {name: policy.info.profiling or self.profiling for name, policy in named.items()}
        return Resources(
            catalogue=self.catalogue,
            recommender=self.recommender,
            profilers={name: self.role_port(by.profiler) for name, by in profiling.items() if by and by.profiler},
            profiling=self.profiling,
            refiner=self.refiner_port,
            encoder=self.encoder if self.refiner else None,
            policies=named,
            items=self.dataset.items if self.dataset_name else {},
            domain=self.dataset.domain if self.dataset_name else DEFAULT_DOMAIN,
        )

    def graph(self, policies: Mapping[str, PromptPolicy] | None = None, *, training: bool = False) -> RankGraph:
        """Compile a rank graph over this workspace."""
        return build_rank_graph(self.resources(policies), training=training)

    def cases(
        self, user_ids: Sequence[str], n_candidates: int, seed: int, *, hold_out: HoldOut = "last"
    ) -> tuple[EvalCase, ...]:
        """Return the users' cases, scored on one held-out item, without users for whom `source` has too few items.

        Raises:
            DataError: that is every user.
        """
        cases = make_cases(
            self.dataset,
            user_ids,
            n_candidates=n_candidates,
            seed=seed,
            hold_out=hold_out,
            source=self.source,
            retrieve=self.retrieve,
        )
        if user_ids and not cases:
            raise DataError(
                f"--candidates-from {self.candidates_from}: has {n_candidates} candidates for none of the"
                f" {len(user_ids)} users; give another file, or fewer --candidates"
            )
        return cases


def _world_name(spec: ModelSpec) -> str | None:
    """Return the planted world behind `planted:NAME` or `openai:planted:NAME`."""
    if spec.provider == PLANTED:
        return spec.model
    served = ModelSpec.parse(spec.model) if spec.model.startswith(f"{PLANTED}:") else None
    return served.model if served else None


def train_inputs(cases: Sequence[EvalCase]) -> list[TrainInput]:
    """Return training requests of training or validation cases; test cases must not come here."""
    return [TrainInput.of(case.request, relevant_item_ids=[case.relevant_item_id]) for case in cases]


def open_store(folder: Path, library: ResponseStore | None = None) -> ResponseStore:
    """Open the response store of a run folder, above the library that it shares with other runs."""
    return ResponseStore(folder / STORE_FILE, library=library, in_threads=False)


@lru_cache(maxsize=1)
def _read_dataset(name: str, data_dir: Path) -> Dataset:
    """Load a data set once for all the runs that a suite makes of it, one after the other."""
    return load_dataset(load_spec(name), data_dir)
