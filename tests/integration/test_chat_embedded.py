"""The chat on real films with the model that ships: fast enough to talk to, and what is asked for is what comes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from promptailor.app.chat import chat_graph
from promptailor.app.settings import Settings
from promptailor.evals.dataset_spec import find_layout
from promptailor.evals.datasets import load_dataset, load_spec
from promptailor.graph.chat.build import ChatGraph
from promptailor.prompts.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatGraph]:
    folder = os.environ.get("PROMPTAILOR_DATA")
    if not folder:
        pytest.skip("PROMPTAILOR_DATA is not set")
    try:
        find_layout(load_spec("ml-100k"), Path(folder))
    except DataError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PROMPTAILOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield chat_graph(Settings(), model="embedded:ml-100k", checkpointer=InMemorySaver())


def say(chat: ChatGraph, thread: str, text: str, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = chat.invoke(
        {"messages": [{"role": "user", "content": text}], **fields}, {"configurable": {"thread_id": thread}}
    )
    return answer


def test_a_visitor_has_an_answer_with_reasons_in_under_two_seconds(chat: ChatGraph) -> None:
    started = time.perf_counter()
    answer = say(chat, "fast", "a funny movie from the eighties, but nothing violent")
    assert time.perf_counter() - started < 2
    films = load_dataset(load_spec("ml-100k"), Path(os.environ["PROMPTAILOR_DATA"]))
    assert len(answer["ranking"]["items"]) == 10
    assert answer["ranking"]["model"] == "embedded:ml-100k"
    for item in answer["ranking"]["items"]:
        kinds = set(films.items[item["item_id"]].categories)
        assert "Comedy" in kinds
        assert not kinds & {"Action", "Crime", "Horror", "War", "Thriller"}
        assert 1980 <= films.years[item["item_id"]] <= 1989
        assert item["reason"].startswith(f"Comedy from {films.years[item['item_id']]}, as you asked")


def test_a_conversation_of_many_turns_keeps_what_was_said(chat: ChatGraph) -> None:
    like = say(chat, "long", "something like Alien, but not scary")
    assert "Star Wars" in {item["title"] for item in like["ranking"]["items"]}
    second = like["ranking"]["items"][1]
    on = say(chat, "long", "more like the second one")
    assert on["wishes"]["anchors"] == [second["item_id"]]
    seen = on["ranking"]["items"][0]["title"]
    assert seen not in {i["title"] for i in say(chat, "long", "I've seen the first one")["ranking"]["items"]}
    more = say(chat, "long", "show me more")
    assert not {i["title"] for i in on["ranking"]["items"]} & {i["title"] for i in more["ranking"]["items"]} - {seen}
    assert more["wishes"]["avoided"] == ["Horror"]


def test_a_user_of_the_data_set_and_a_described_visitor_get_lists_of_their_own(chat: ChatGraph) -> None:
    known = say(chat, "known", "what should I watch?", user_id="1")
    other = say(chat, "other", "what should I watch?", user_id="2")
    told = say(chat, "told", "I am a student who loves Toy Story, Aladdin and The Lion King")
    lists = [{item["item_id"] for item in answer["ranking"]["items"]} for answer in (known, other, told)]
    assert lists[0] != lists[1]
    assert all("like you" in item["reason"] for item in told["ranking"]["items"][:3])
