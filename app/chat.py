"""From settings to a chat graph: the rank graph, a data set as its catalogue, and who reads the messages."""

from __future__ import annotations

from pathlib import Path

from langgraph.checkpoint.base import BaseCheckpointSaver

from promptailor.app.backends import ModelSpec
from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect, content_spec
from promptailor.app.backends.store import ResponseStore
from promptailor.app.retrieval import CatalogueRetriever
from promptailor.app.serving import serving_graph
from promptailor.app.settings import Settings
from promptailor.app.wiring import PLANTED, Workspace
from promptailor.evals.datasets import load_spec
from promptailor.graph.build import RankGraph
from promptailor.graph.chat.build import N_CANDIDATES, ChatGraph, build_chat_graph
from promptailor.prompts.chat import load_chat_words
from promptailor.prompts.patterns import Catalogue, load_catalogue

DEFAULT_DATASET = "ml-100k"
_EMBEDDED = "embedded"


def chat_graph(
    settings: Settings,
    *,
    model: str | None = None,
    refiner: str | None = None,
    policies: str | None = None,
    dataset: str | None = None,
    reader: str | None = None,
    catalogue: Catalogue | None = None,
    chat_words: Path | None = None,
    n_candidates: int = N_CANDIDATES,
    store: ResponseStore | None = None,
    budget: Budget | None = None,
    rank_graph: RankGraph | None = None,
    checkpointer: BaseCheckpointSaver[str] | None = None,
    warm: bool = True,
) -> ChatGraph:
    """Build the chat graph.

    Its answers hold `messages` and `ranking`, the last `RankOutput` as JSON: `RankOutput.model_validate(...)` reads it.

    Args:
        settings: paths, keys and the defaults of the other arguments.
        model: the recommender's spec.
        refiner: the refiner's spec, for RPP+ and GRIPS.
        policies: trained policies as `NAME=FOLDER`, separated by commas; `Context.policy` names the one that serves.
        dataset: the catalogue to recommend from; the one that the model was made for where empty.
        reader: spec of a chat model that reads the messages; the rules alone where empty.
        catalogue: the pattern catalogue; the built-in one where empty.
        chat_words: own words and sentences of the chat, as YAML.
        n_candidates: how many candidates are ranked for a reply.
        store: where answers are kept; memory where empty.
        budget: a cap on requests.
        rank_graph: a rank graph to embed, compiled without a checkpointer, instead of one that is built from `model`,
            `refiner` and `policies`.
        checkpointer: keeps conversations; not for a graph that `langgraph dev` serves.
        warm: read the data set now, and not when the first visitor comes.

    Raises:
        DataError: the data set is unknown, or not here.
    """
    catalogue = catalogue or load_catalogue()
    store, budget = store or ResponseStore(), budget or Budget()
    graph = rank_graph or serving_graph(
        settings, model=model, refiner=refiner, policies=policies, catalogue=catalogue, store=store, budget=budget
    )
    reading = reader or settings.chat_model
    retriever = catalogue_retriever(settings, dataset=dataset, model=model)
    return build_chat_graph(
        graph,
        retriever=retriever.warm() if warm else retriever,
        catalogue=catalogue,
        words=load_chat_words(chat_words),
        reader=connect(reading, settings=settings, store=store, budget=budget) if reading else None,
        n_candidates=n_candidates,
        checkpointer=checkpointer,
    )


def catalogue_retriever(
    settings: Settings, *, dataset: str | None = None, model: str | None = None
) -> CatalogueRetriever:
    """Return a data set as a retriever; it is read when it is first needed.

    Raises:
        DataError: no data set has this name.
    """
    recommender = model or settings.model
    name = dataset or settings.dataset or _made_for(content_spec(recommender))
    workspace = Workspace(settings=settings, dataset_name=name, model=recommender if name == PLANTED else None)
    domain = workspace.dataset.domain if name == PLANTED else load_spec(name).domain
    return CatalogueRetriever(load=lambda: workspace.dataset, domain=domain)


def _made_for(model: ModelSpec) -> str:
    """Name the data set that a model knows the titles of, or the default one."""
    if model.provider == PLANTED:
        return PLANTED
    return model.model if model.provider == _EMBEDDED else DEFAULT_DATASET
