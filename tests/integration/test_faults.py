"""The port on real connections: a share of them broken, many at once, and none to spare."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.app.loopback import slow_server
from promptailor.app.settings import Settings
from promptailor.evals.planted import PlantedWorld
from promptailor.evals.protocol import make_cases, split_users
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_batch
from promptailor.graph.state import RankInput
from promptailor.policies.manual import manual_policy
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.llm import Message, ModelCall
from promptailor.prompts.patterns import Catalogue
from tests.integration.fault_proxy import FaultProxy

pytestmark = pytest.mark.slow


def open_port(text: str, store: ResponseStore, budget: Budget | None = None) -> ModelPort:
    return connect(text, settings=Settings(), store=store, budget=budget or Budget())


def rank_all(port: ModelPort, catalogue: Catalogue, users: list[RankInput]) -> list[list[str]]:
    policies = {"manual": manual_policy(catalogue)}
    graph = build_rank_graph(Resources(catalogue=catalogue, recommender=port, policies=policies))
    return [[item.item_id for item in answer["items"]] for answer in run_batch(graph, users, Context(), n_steps=1)]


@pytest.fixture(scope="module")
def users(world: PlantedWorld) -> list[RankInput]:
    dataset = world.dataset(700, 0)
    return [RankInput.of(case.request) for case in make_cases(dataset, split_users(dataset).train[:200], seed=0)]


def test_one_broken_request_in_five_changes_no_result_and_loses_no_paid_answer(
    planted_server: str, users: list[RankInput], catalogue: Catalogue, tmp_path: Path
) -> None:
    expected = rank_all(open_port("planted:1", ResponseStore()), catalogue, users)
    store = ResponseStore(tmp_path / "responses.sqlite")
    with FaultProxy(planted_server, rate=0.2, seed=1) as proxy:
        # A patient timeout, so that a busy machine does not make faults of its own.
        port = open_port(f"openai:planted:1?base_url={proxy.url}&timeout=10", store)
        assert rank_all(port, catalogue, users) == expected
        assert len(proxy.injected) > 8, "hardly any kind of fault was met"
        with closing(sqlite3.connect(tmp_path / "responses.sqlite")) as db:
            (kept,) = db.execute("SELECT count(*) FROM responses").fetchone()
        assert kept == len(users) == proxy.passed, "an answer that arrived was paid for again"
        assert store.requests == port.budget.used.calls == proxy.requests
        sent = proxy.requests
        assert rank_all(port, catalogue, users) == expected
        assert proxy.requests == sent, "a stored answer was asked for again"


def test_a_budget_holds_on_broken_connections(
    planted_server: str, users: list[RankInput], catalogue: Catalogue
) -> None:
    with FaultProxy(planted_server, rate=0.2, seed=2, faults=("error", "reset", "truncated")) as proxy:
        port = open_port(f"openai:planted:1?base_url={proxy.url}", ResponseStore(), Budget(50))
        with pytest.raises(BudgetExceededError, match="the budget of 50 calls is spent"):
            rank_all(port, catalogue, users)
        assert proxy.requests == 50


def test_sixty_four_requests_are_in_flight_at_once() -> None:
    """A timed row of the benchmark says how near this comes to the ideal; here only that they do not wait in line."""
    with slow_server(0.05) as url:
        port = open_port(f"openai:m?base_url={url}&concurrency=64", ResponseStore())
        calls = [ModelCall(messages=(Message(role="user", content=str(n)),), split="test") for n in range(256)]

        async def ask_all() -> int:
            return len(await asyncio.gather(*(port.acomplete(call) for call in calls)))

        started = time.perf_counter()
        assert asyncio.run(ask_all()) == 256
        assert time.perf_counter() - started < 256 * 0.05 / 2
