"""More candidates than a prompt holds, ranked in sliding windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_batch, run_training
from promptailor.graph.state import RankInput, RankOutput, TrainInput
from promptailor.policies.manual import manual_policy
from promptailor.prompts.domain import Item
from promptailor.prompts.patterns import load_catalogue

SIZE = 6
CATALOGUE = load_catalogue()


class SortingChat(BaseChatModel):
    """Ranks films by the number in their title, and refuses to read more than `max_candidates`."""

    max_candidates: int | None = SIZE

    @property
    def _llm_type(self) -> str:
        return "sorting"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        films = [int(film) for film in re.findall(r"^\d+\. Film (\d+)$", messages[-1].text, re.MULTILINE)]
        assert self.max_candidates is None or len(films) <= self.max_candidates
        order = sorted(range(len(films)), key=lambda place: films[place])
        text = "\n".join(str(place + 1) for place in order)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])


def graph_of(model: BaseChatModel, *, training: bool = False) -> RankGraph:
    port = ModelPort(spec="sorting:1", model=model, store=ResponseStore(), budget=Budget())
    policies = {"manual": manual_policy(CATALOGUE)}
    return build_rank_graph(Resources(catalogue=CATALOGUE, recommender=port, policies=policies), training=training)


def request_of(films: Sequence[int], user_id: str = "u") -> RankInput:
    items: list[Item | str] = [Item(item_id=str(film), title=f"Film {film}") for film in films]
    return RankInput(user_id=user_id, history=[Item(item_id="h", title="Film h")], candidates=items)


@settings(deadline=None, max_examples=40)
@given(films=st.permutations(range(23)), n=st.integers(2, 23))
def test_the_best_candidates_rise_to_the_top_from_anywhere(films: list[int], n: int) -> None:
    answer = RankOutput.model_validate(graph_of(SortingChat()).invoke(request_of(films[:n])))
    ranked = [int(item.item_id) for item in answer.items]
    assert sorted(ranked) == sorted(films[:n])
    assert ranked[: SIZE // 2] == sorted(films[:n])[: SIZE // 2]
    assert answer.steps[0].windows == answer.llm_calls == (1 if n <= SIZE else 1 + -(-(n - SIZE) // (SIZE // 2)))
    assert answer.parse.valid


def test_the_answer_says_when_windows_were_needed() -> None:
    one, many = (RankOutput.model_validate(graph_of(SortingChat()).invoke(request_of(range(n)))) for n in (SIZE, 20))
    assert (one.steps[0].windows, many.steps[0].windows) == (1, 6)


def test_a_smaller_window_can_be_asked_for() -> None:
    graph = graph_of(SortingChat(max_candidates=None))
    answer = RankOutput.model_validate(graph.invoke(request_of(range(20)), context=Context(window=10)))
    assert answer.steps[0].windows == 3


def test_each_step_starts_its_windows_anew() -> None:
    answer = RankOutput.model_validate(
        graph_of(SortingChat()).invoke(request_of(range(20)), context=Context(n_steps=3))
    )
    assert [step.windows for step in answer.steps] == [6, 6, 6]
    assert answer.llm_calls == 18
    assert len({tuple(step.shown) for step in answer.steps}) == 3


def test_alone_in_a_batch_and_in_training_the_ranking_is_the_same() -> None:
    users = [request_of(range(30), user_id=str(user)) for user in range(5)]
    batch = run_batch(graph_of(SortingChat()), users, Context(), n_steps=1)
    for user, answer in zip(users, batch, strict=True):
        assert answer["items"] == graph_of(SortingChat()).invoke(user)["items"]
    trained = run_training(
        graph_of(SortingChat(), training=True),
        [TrainInput(**dict(users[0]), relevant_item_ids=["0"])],
        Context(),
        n_steps=1,
    )
    assert trained[0].rewards == [pytest.approx(1.0)]
    assert [item.item_id for item in trained[0].trace[0].ranking] == [item.item_id for item in batch[0]["items"]]
