"""Runs that share a library of answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import STORE_FILE, ResponseStore, StoredResponse
from promptailor.app.encoder import SentenceEncoder
from promptailor.prompts.llm import Message, ModelCall

PAID = Spending(calls=1, tokens=7)
ANSWER = StoredResponse(text="a", model="m", input_tokens=5, output_tokens=2)


@pytest.fixture
def library(tmp_path: Path) -> ResponseStore:
    return ResponseStore(tmp_path / "library" / STORE_FILE)


@pytest.fixture
def run(tmp_path: Path, library: ResponseStore) -> Callable[[str], ResponseStore]:
    return lambda name: ResponseStore(tmp_path / name / STORE_FILE, library=library)


def port(store: ResponseStore, *answers: str) -> ModelPort:
    model = GenericFakeChatModel(messages=iter([AIMessage(content=text) for text in answers]))
    return ModelPort(spec="fake:m", model=model, store=store, budget=Budget())


def call(text: str) -> ModelCall:
    return ModelCall(messages=(Message(role="user", content=text),), split="test")


def test_an_answer_is_bought_once_and_its_cost_is_that_of_the_run_that_bought_it(
    run: Callable[[str], ResponseStore], library: ResponseStore
) -> None:
    first, second = run("first"), run("second")
    assert not port(first, "the answer").complete(call("q")).cached
    again = port(second).complete(call("q"))  # it has no answer of its own: asking would fail
    assert (again.text, again.cached, again.calls) == ("the answer", True, 1)
    assert (first.requests, second.requests, library.requests) == (1, 0, 1)
    assert (first.hits, second.hits) == (0, 1)


def test_a_run_keeps_what_it_took_so_that_its_folder_is_replayed_alone(
    run: Callable[[str], ResponseStore], tmp_path: Path
) -> None:
    port(run("first"), "the answer").complete(call("q"))
    second = run("second")
    port(second).complete(call("q"))
    second.close()
    alone = ResponseStore(tmp_path / "second" / STORE_FILE)
    assert port(alone).complete(call("q")).text == "the answer"
    assert [model.spec for model in alone.models()] == ["fake:m"]


def test_failed_requests_are_the_runs_own_cost_and_the_librarys(
    run: Callable[[str], ResponseStore], library: ResponseStore
) -> None:
    first, second = run("first"), run("second")
    first.spend(PAID)
    first.put("k", ANSWER, PAID)
    second.get("k")
    second.put("other", ANSWER, PAID)
    assert first.spending == Spending(calls=2, tokens=14)
    assert second.spending == PAID
    assert library.spending == Spending(calls=3, tokens=21)


def test_embeddings_are_shared_too(run: Callable[[str], ResponseStore], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run("first"), run("second")
    first.put_embedding("all-MiniLM\0title", b"\0\0\x80?")
    encoder = SentenceEncoder("all-MiniLM", store=second)
    assert encoder.encode(["title"]) == [[1.0]]
    assert encoder.calls == 0
    assert second.get_embedding("nothing") is None


def test_two_processes_worth_of_stores_write_to_one_library(tmp_path: Path) -> None:
    stores = [
        ResponseStore(tmp_path / f"{n}.sqlite", library=ResponseStore(tmp_path / "library.sqlite")) for n in range(2)
    ]
    for number in range(20):
        stores[number % 2].put(f"k{number}", ANSWER, PAID)
    assert all(store.get(f"k{number}") for store in stores for number in range(20))
    assert ResponseStore(tmp_path / "library.sqlite").requests == 20
