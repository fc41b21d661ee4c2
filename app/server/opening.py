"""From settings to a service that is ready: model loaded, policy there, database up to date, first answer given."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from langgraph.checkpoint.base import BaseCheckpointSaver

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect, content_spec
from promptailor.app.backends.store import ResponseStore
from promptailor.app.chat import catalogue_retriever
from promptailor.app.checkpoints import aopen_checkpointer
from promptailor.app.pseudonym import pseudonym
from promptailor.app.retrieval import CatalogueRetriever
from promptailor.app.server.application import ServiceFactory
from promptailor.app.server.conversation import Chat
from promptailor.app.server.feedback_store import open_store
from promptailor.app.server.first_policy import NAME, first_policy, trains_itself
from promptailor.app.server.metrics import Metrics
from promptailor.app.server.schemas import Start
from promptailor.app.server.service import Service, example_users
from promptailor.app.serving import policy_context, serving_resources
from promptailor.app.settings import Settings
from promptailor.app.wiring import PLANTED, Workspace
from promptailor.evals.datasets import Dataset, known_datasets
from promptailor.evals.protocol import split_users
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.chat.build import build_chat_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput
from promptailor.prompts.chat import load_chat_words
from promptailor.prompts.domain import Item

logger = logging.getLogger(__name__)

N_EXAMPLES = 6
_WARM_CANDIDATES = 10


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What is served."""

    model: str | None = None
    """The recommender; that of the settings where empty."""
    refiner: str | None = None
    policies: str | None = None
    """As `NAME=FOLDER`; the first one serves. Where neither this nor the settings name any, the embedded model's policy
    is trained once, and other models are served with the manual prompt."""
    dataset: str | None = None
    """The catalogue to chat about; the one that the embedded model was trained on where empty."""
    explore: bool = False
    """Draw the sentences instead of taking the most probable, so that feedback tells how others would do."""
    permutations: int | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What was loaded, before any database is opened."""

    settings: Settings
    resources: Resources
    context: Context
    dataset: Dataset | None
    retriever: CatalogueRetriever | None
    """Over the data set to chat about."""
    store: ResponseStore
    budget: Budget


def load_service(config: ServerConfig, settings: Settings) -> Loaded:
    """Load models, policies and data; what is wrong is said before the server listens.

    Raises:
        PromptailorError: a model, policy or data set is not there; the message names the fix.
    """
    model = config.model or settings.model
    catalogue = _catalogue(config, settings, model)
    dataset = Workspace(settings=settings, dataset_name=catalogue, model=model).dataset if catalogue else None
    named = config.policies or settings.policies
    if named is None and catalogue is not None and trains_itself(model):
        named = f"{NAME}={first_policy(settings, model, catalogue)}"
    _folder(settings).mkdir(parents=True, exist_ok=True)
    pseudonym("", settings)  # makes the key, while nobody waits
    store, budget = ResponseStore(_folder(settings) / "responses.sqlite"), Budget()
    resources = serving_resources(
        settings,
        model=model,
        refiner=config.refiner,
        policies=named,
        dataset=catalogue,
        store=store,
        budget=budget,
    )
    context = policy_context(named, refiner=config.refiner, seed=0, permutations=config.permutations)
    context = context.model_copy(update={"explore": config.explore})
    return Loaded(
        settings=settings,
        resources=resources,
        context=context,
        dataset=dataset,
        retriever=catalogue_retriever(settings, dataset=catalogue, model=model).warm() if catalogue else None,
        store=store,
        budget=budget,
    )


def opened(loaded: Loaded) -> ServiceFactory:
    """Return what opens the databases around what was loaded, and gives a first answer."""

    @asynccontextmanager
    async def open_service(metrics: Metrics) -> AsyncIterator[Service]:
        settings, resources, dataset = loaded.settings, loaded.resources, loaded.dataset
        graph = build_rank_graph(resources)
        async with AsyncExitStack() as stack:
            saver = await stack.enter_async_context(aopen_checkpointer(_checkpointer_url(settings)))
            feedback = await asyncio.to_thread(open_store, settings)
            stack.push_async_callback(asyncio.to_thread, feedback.close)
            chat = _chat(loaded, graph, saver)
            users = example_users(dataset, split_users(dataset).train, n=N_EXAMPLES) if dataset else ()
            start = Start(
                users=list(users), domain=resources.domain, policy=loaded.context.policy, chat=chat is not None
            )
            service = Service(
                settings=settings,
                resources=resources,
                graph=graph,
                context=loaded.context,
                feedback=feedback,
                metrics=metrics,
                start=start,
                chat=chat,
            )
            await _warm_up(service)
            yield service

    return open_service


def _checkpointer_url(settings: Settings) -> str:
    """Return where conversations are kept: where the settings say, with the feedback on PostgreSQL, else in a file."""
    if settings.checkpointer:
        return settings.checkpointer.get_secret_value()
    database = settings.database.get_secret_value() if settings.database else ""
    if database.startswith("postgres"):
        return f"postgresql://{database.partition('://')[2]}"
    return f"sqlite:///{_folder(settings) / 'conversations.sqlite'}"


def _folder(settings: Settings) -> Path:
    """Return where the server keeps answers and conversations."""
    return settings.home / "served"


def _chat(loaded: Loaded, graph: RankGraph, saver: BaseCheckpointSaver[str]) -> Chat | None:
    if loaded.retriever is None:
        return None
    settings, catalogue = loaded.settings, loaded.resources.catalogue
    reading = settings.chat_model
    chat = build_chat_graph(
        graph,
        retriever=loaded.retriever,
        catalogue=catalogue,
        words=load_chat_words(None),
        reader=connect(reading, settings=settings, store=loaded.store, budget=loaded.budget) if reading else None,
        checkpointer=saver,
    )
    return Chat(graph=chat, catalogue=catalogue, retriever=loaded.retriever, saver=saver)


def _catalogue(config: ServerConfig, settings: Settings, model: str) -> str | None:
    """Name the data set to chat about: as told, else what an embedded model was trained on, else none."""
    name = config.dataset or settings.dataset
    spec = content_spec(model)
    if name is None and trains_itself(model) and spec.model in known_datasets():
        name = spec.model
    if name is None and spec.provider == PLANTED:
        name = PLANTED
    return name


async def _warm_up(service: Service) -> None:
    """Rank once, so that the first visitor does not wait for what is loaded on first use."""
    started = time.perf_counter()
    items = list(service.resources.items.values())[: _WARM_CANDIDATES + 1]
    if len(items) < _WARM_CANDIDATES:
        items = [Item(item_id=str(n), title=f"Title {n}") for n in range(_WARM_CANDIDATES + 1)]
    request = RankInput(user_id="warm-up", history=items[:1], candidates=items[1:])
    await service.graph.ainvoke(request, context=service.context)
    if service.chat is not None:
        await service.chat.warm_up(service.context)
    logger.info("ready after %.1f s", time.perf_counter() - started)
