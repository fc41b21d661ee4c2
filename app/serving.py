"""From settings and strings to a rank graph that serves requests; what `rank`, Studio and library users share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from langgraph.checkpoint.base import BaseCheckpointSaver

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.store import ResponseStore
from promptailor.app.searches import PER_REQUEST, searching_policy
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.policies.base import PromptPolicy
from promptailor.prompts.errors import SpecError
from promptailor.prompts.patterns import Catalogue, load_catalogue


def serving_resources(
    settings: Settings,
    *,
    model: str | None = None,
    refiner: str | None = None,
    policies: str | None = None,
    dataset: str | None = None,
    catalogue: Catalogue | None = None,
    store: ResponseStore | None = None,
    budget: Budget | None = None,
) -> Resources:
    """Load what requests are served with.

    Args:
        settings: paths, keys and the defaults of the other arguments.
        model: the recommender's spec.
        refiner: the refiner's spec, for RPP+ and GRIPS; the latter takes the recommender where it is empty.
        policies: trained policies as `NAME=FOLDER`, and searches per request by name, separated by commas; `manual` is
            always there.
        dataset: the item catalogue that bare ids are looked up in; None where requests carry titles.
        catalogue: the pattern catalogue; the built-in one where empty.
        store: where answers are kept; memory where empty.
        budget: a cap on requests.
    """
    folders = parse_policies(policies if policies is not None else settings.policies)
    catalogue = catalogue or load_catalogue()
    searches = {name: searching_policy(name, catalogue) for name, folder in folders.items() if folder is None}
    recommender = model or settings.model
    workspace = Workspace(
        settings=settings,
        dataset_name=dataset,
        model=recommender,
        refiner=refiner or settings.refiner or (recommender if any(s.rewrites for s in searches.values()) else None),
        catalogue=catalogue,
        store=store or ResponseStore(),
        budget=budget or Budget(),
    )
    loaded: dict[str, PromptPolicy] = {
        name: searches[name] if folder is None else workspace.load_policy(folder) for name, folder in folders.items()
    }
    return workspace.resources(loaded)


def serving_graph(
    settings: Settings,
    *,
    model: str | None = None,
    refiner: str | None = None,
    policies: str | None = None,
    dataset: str | None = None,
    catalogue: Catalogue | None = None,
    store: ResponseStore | None = None,
    budget: Budget | None = None,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> RankGraph:
    """Build the rank graph over `serving_resources`, whose arguments these are.

    `checkpointer` is for threads that persist, and not for a graph that `langgraph dev` serves.
    """
    resources = serving_resources(
        settings, model=model, refiner=refiner, policies=policies, dataset=dataset, catalogue=catalogue, store=store,
        budget=budget,
    )  # fmt: skip
    return build_rank_graph(resources, checkpointer=checkpointer)


def policy_context(policy: str | None, *, refiner: str | None, seed: int, permutations: int | None) -> Context:
    """Return the settings that serve with the first policy named, as in `serving_resources`."""
    policies = parse_policies(policy)
    name = next(iter(policies), "manual")
    searches = name in policies and policies[name] is None  # GRIPS asks the refiner itself
    return Context(policy=name, seed=seed, refine=refiner is not None and not searches, permutations=permutations)


def parse_policies(text: str | None) -> Mapping[str, Path | None]:
    """Read `NAME=FOLDER,NAME=FOLDER`; a search per request has no folder, and `manual` alone names no policy."""
    folders: dict[str, Path | None] = {}
    for part in filter(None, (p.strip() for p in (text or "").split(","))):
        name, equals, folder = part.partition("=")
        if name == "manual" and not equals:
            continue
        if name in PER_REQUEST and not equals:
            folders[name] = None
            continue
        if not (name and folder):
            raise SpecError(f"policy {part!r}: write NAME=FOLDER, the folder of `promptailor train --out`")
        folders[name] = Path(folder)
    return folders
