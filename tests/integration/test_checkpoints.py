"""Threads outlive the process, in SQLite and in PostgreSQL, and a checkpoint cannot name code to run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph._internal._serde import collect_allowlist_from_schemas
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.planted import PlantedChat
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.app.checkpoints import STATE_TYPES, aopen_checkpointer, open_checkpointer, serializer
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.chat.build import ChatGraph, build_chat_graph
from promptailor.graph.chat.state import ChatState
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput, RankState
from promptailor.policies.base import PromptPolicy
from promptailor.policies.manual import manual_policies
from promptailor.prompts.chat import load_chat_words
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import load_catalogue
from tests.films import film_retriever
from tests.integration.postgres import postgres_database
from tests.unit.graph.conftest import KeyedTeam

THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}
REQUEST: dict[str, Any] = {
    "user_id": "u",
    "history": [{"item_id": "1", "title": "Alien"}, {"item_id": "4", "title": "Heat"}],
    "candidates": [{"item_id": "2", "title": "Aliens"}, {"item_id": "3", "title": "Heidi"}],
    "user_profile": {"taste": "quiet films"},
}


def rank_graph(**options: Any) -> RankGraph:
    catalogue = load_catalogue()
    port = ModelPort(
        spec="planted:1", model=PlantedChat.from_world("1", seed=0), store=ResponseStore(), budget=Budget()
    )
    policies: dict[str, PromptPolicy] = {**manual_policies(catalogue), "rpp": KeyedTeam(catalogue)}
    return build_rank_graph(Resources(catalogue=catalogue, recommender=port, policies=policies), **options)


def chat_graph(**options: Any) -> ChatGraph:
    return build_chat_graph(
        rank_graph(), retriever=film_retriever(), catalogue=load_catalogue(), words=load_chat_words(), **options
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'threads.sqlite'}"
    else:
        with postgres_database() as database:
            yield database


def test_a_conversation_goes_on_after_the_process_has_ended(url: str) -> None:
    with open_checkpointer(url) as saver:
        first = chat_graph(checkpointer=saver).invoke({"messages": [("user", "a comedy, no horror")]}, THREAD)
    with open_checkpointer(url) as saver:
        second = chat_graph(checkpointer=saver).invoke({"messages": [("user", "like the second one")]}, THREAD)
    assert [m.type for m in second["messages"]] == ["human", "ai", "human", "ai"]
    assert second["wishes"]["anchors"] == [first["ranking"]["items"][1]["item_id"]]
    assert second["wishes"]["avoided"] == ["Horror"]


def test_a_prompt_waits_for_its_reader_over_a_restart_on_an_event_loop(url: str) -> None:
    context = Context(policy="rpp", n_steps=1, review=True)

    async def ask(given: Any) -> dict[str, Any]:
        async with aopen_checkpointer(url) as saver:
            answer: dict[str, Any] = await rank_graph(checkpointer=saver).ainvoke(given, THREAD, context=context)
            return answer

    assert "__interrupt__" in asyncio.run(ask(REQUEST))
    edited = asyncio.run(ask(Command(resume={"sentences": {"role_playing": "You know films."}})))
    assert edited["steps"][0].refined == {"role_playing": "You know films."}


@pytest.mark.parametrize("strict", [True, False])
def test_everything_in_a_state_is_read_back_as_it_was_in_strict_mode_too(
    strict: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if strict:  # LANGGRAPH_STRICT_MSGPACK=true; the variable is read when langgraph is imported
        monkeypatch.setattr("langgraph.checkpoint.serde._msgpack.STRICT_MSGPACK_ENABLED", True)
        monkeypatch.setattr("langgraph._internal._serde.STRICT_MSGPACK_ENABLED", True)
    saver = InMemorySaver(serde=JsonPlusSerializer() if strict else serializer())
    graph = rank_graph(checkpointer=saver)
    context = Context(policy="rpp", n_steps=2, permutations=2)
    with caplog.at_level(logging.WARNING):
        first = graph.invoke(REQUEST, THREAD, context=context)
        for snapshot in list(graph.get_state_history(THREAD)):
            if snapshot.next and snapshot.next != ("__start__",):
                assert graph.invoke(None, snapshot.config, context=context)["items"] == first["items"]
        chat = chat_graph(checkpointer=saver)
        talk: RunnableConfig = {"configurable": {"thread_id": "talk"}}
        chat.invoke({"messages": [("user", "a comedy")]}, talk, context=Context(review=True))
        chat.invoke(Command(resume=True), talk, context=Context(review=True))
        assert chat.invoke({"messages": [("user", "less romance")]}, talk)["wishes"]["lessened"] == ["Romance"]
    assert not [r.message for r in caplog.records if "msgpack" in r.message or "eserializ" in r.message]


def test_no_type_of_the_states_was_forgotten() -> None:
    known = {(known.__module__, known.__name__) for known in STATE_TYPES}
    named = collect_allowlist_from_schemas(schemas=[RankState, RankInput, RankOutput, ChatState])
    ours = {name for name in named if name[0].startswith("promptailor.")}
    assert (
        ours - known - {("promptailor.graph.state", "RankState"), ("promptailor.graph.chat.state", "ChatState")}
        == set()
    )


def test_a_checkpoint_cannot_name_code_to_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "pwned",))

    kind, stored = serializer().dumps_typed(InputError("not one of the state's types"))
    assert not isinstance(serializer().loads_typed((kind, stored)), InputError)
    with pytest.raises((TypeError, ValueError)):
        serializer().dumps_typed(Evil())
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "write sqlite:///FILE or postgresql://"),
        ("sqlite://", "write sqlite:///FILE"),
        ("sqlite:////no/such/folder/threads.sqlite", "unable to open"),
        ("postgresql://me:hunter22@127.0.0.1:9/threads", "start the database or correct the URL"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line_without_the_password(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught, open_checkpointer(url):
        pass
    assert len(str(caught.value).splitlines()) == 1
    assert "hunter22" not in str(caught.value)
