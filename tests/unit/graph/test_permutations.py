"""Shuffled copies of a prompt, fused into one ranking."""

from __future__ import annotations

import re
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_batch
from promptailor.graph.state import RankInput, RankOutput
from promptailor.policies.manual import manual_policy
from promptailor.prompts.domain import Item
from promptailor.prompts.patterns import load_catalogue

CATALOGUE = load_catalogue()
N_FILMS = 10


class BiasedChat(BaseChatModel):
    """Moves the film shown first to the top and otherwise ranks by the number in the title: position bias."""

    @property
    def _llm_type(self) -> str:
        return "biased"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        films = [int(film) for film in re.findall(r"^\d+\. Film (\d+)$", messages[-1].text, re.MULTILINE)]
        order = sorted(range(len(films)), key=lambda place: (place != 0, films[place]))
        text = "\n".join(str(place + 1) for place in order)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])


def graph() -> RankGraph:
    port = ModelPort(spec="biased:1", model=BiasedChat(), store=ResponseStore(), budget=Budget())
    return build_rank_graph(
        Resources(catalogue=CATALOGUE, recommender=port, policies={"manual": manual_policy(CATALOGUE)})
    )


def request(user_id: str = "u", n_films: int = N_FILMS) -> RankInput:
    films: list[Item | str] = [Item(item_id=str(film), title=f"Film {film}") for film in range(n_films)]
    return RankInput(user_id=user_id, history=[Item(item_id="h", title="Film h")], candidates=films)


def ranked(answer: RankOutput) -> list[int]:
    return [int(item.item_id) for item in answer.items]


def test_enough_copies_cancel_a_models_preference_for_a_place() -> None:
    users = [request(str(user)) for user in range(20)]
    one, many = (
        [RankOutput.model_validate(a) for a in run_batch(graph(), users, Context(permutations=k), n_steps=1)]
        for k in (1, 20)
    )
    assert sum(ranked(answer)[0] == 0 for answer in one) < 10
    assert sum(ranked(answer)[0] == 0 for answer in many) == 20
    assert all(answer.llm_calls == 20 and answer.steps[0].permutations == 20 for answer in many)


def test_copies_of_a_step_differ_from_each_other_and_from_other_steps() -> None:
    nodes: list[Any] = []
    port = ModelPort(spec="biased:1", model=BiasedChat(), store=ResponseStore(), budget=Budget())
    keep, complete = nodes.append, port.complete

    def recording(call: Any) -> Any:
        keep(call)
        return complete(call)

    port.complete = recording  # type: ignore[method-assign]
    built = build_rank_graph(
        Resources(catalogue=CATALOGUE, recommender=port, policies={"manual": manual_policy(CATALOGUE)})
    )
    built.invoke(request(), context=Context(permutations=4, n_steps=3))
    assert len(nodes) == 12
    assert len({call.messages[-1].content for call in nodes}) == 12
    assert len({call.sample_index for call in nodes}) == 12


def test_a_first_copy_is_the_prompt_itself() -> None:
    one, many = (RankOutput.model_validate(graph().invoke(request(), context=Context(permutations=k))) for k in (1, 5))
    assert one.steps[0].prompt_digest == many.steps[0].prompt_digest
    assert one.steps[0].shown == many.steps[0].shown


@pytest.mark.parametrize("permutations", [1, 3])
def test_windows_are_permuted_too_and_every_candidate_keeps_a_place(permutations: int) -> None:
    context = Context(permutations=permutations, window=6)
    answer = RankOutput.model_validate(graph().invoke(request(n_films=20), context=context))
    assert sorted(ranked(answer)) == list(range(20))
    assert answer.llm_calls == permutations * answer.steps[0].windows
