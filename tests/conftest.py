"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

import numpy as np
import pytest

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.planted import PlantedChat
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.evals.planted import N_SEGMENTS, PlantedWorld, planted_world
from promptailor.evals.protocol import make_cases, split_users
from promptailor.evals.types import EvalCase
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.prompts.patterns import Catalogue, load_catalogue


def pytest_collection_finish() -> None:
    """Collect garbage as rarely as the command line does: each time, it looks at all that imports have made."""
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep tests off the user's caches, keys and traces."""
    monkeypatch.setenv("PROMPTAILOR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    settings = ("MODEL", "POLICIES", "DATABASE", "CHECKPOINTER", "DATASET", "CHAT_MODEL")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", *(f"PROMPTAILOR_{setting}" for setting in settings)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that reaches beyond this machine."""
    connect = socket.socket.connect

    def guarded(sock: socket.socket, address: object) -> None:
        if sock.family != socket.AF_UNIX and isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(sock, address)  # type: ignore[arg-type]  # whatever the caller gave

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The built-in pattern catalogue."""
    return load_catalogue()


@pytest.fixture(scope="session")
def world() -> PlantedWorld:
    """The planted world that may be looked at while developing."""
    return planted_world("1")


@pytest.fixture
def segment_embeddings(monkeypatch: pytest.MonkeyPatch, world: PlantedWorld) -> None:
    """In place of LightGCN's vectors, which take seconds, one direction per segment of world 1."""
    vectors = np.eye(N_SEGMENTS)[[world.segment(item.title) or 0 for item in world.items]]
    tensors = {"vectors": vectors, "weights": np.ones(len(vectors)), "user_mean": np.zeros(N_SEGMENTS)}
    embeddings = ItemEmbeddings([item.item_id for item in world.items], {**tensors, "user_scale": np.ones(1)})
    monkeypatch.setattr("promptailor.policies.lightgcn.train_item_embeddings", lambda *_, **__: embeddings)


@pytest.fixture(scope="session")
def cases(world: PlantedWorld) -> tuple[EvalCase, ...]:
    """Forty users' cases."""
    dataset = world.dataset(160, 0)
    return make_cases(dataset, split_users(dataset).train[:40], seed=0)


@pytest.fixture
def planted_port() -> ModelPort:
    """The planted model behind a port with an empty store."""
    model = PlantedChat.from_world("1", seed=0)
    return ModelPort(spec="planted:1", model=model, store=ResponseStore(), budget=Budget())
