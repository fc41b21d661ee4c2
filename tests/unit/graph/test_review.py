"""A person reads the prompt before the model does; and going back in time pays for nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from promptailor.app.backends.port import ModelPort
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankOutput
from promptailor.prompts.assemble import AssembledPrompt

THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}
REQUEST = {"user_id": "u", "history": ["1", "2", "3"], "candidates": ["4", "5", "6"], "domain": "movies"}
REVIEW = Context(review=True)


@pytest.fixture
def graph(resources: Resources) -> RankGraph:
    return build_rank_graph(resources, checkpointer=InMemorySaver())


def stopped(result: dict[str, Any]) -> dict[str, Any]:
    (pause,) = result["__interrupt__"]
    shown: dict[str, Any] = pause.value
    return shown


def sent(graph: RankGraph) -> AssembledPrompt:
    """The prompt that the model was sent last."""
    prompt: AssembledPrompt = graph.get_state(THREAD).values["trace"][-1].prompt
    return prompt


def test_off_by_default(graph: RankGraph) -> None:
    assert "__interrupt__" not in graph.invoke(REQUEST, THREAD)


def test_the_run_stops_before_the_model_is_asked_and_shows_the_whole_prompt(
    graph: RankGraph, planted_port: ModelPort
) -> None:
    shown = stopped(graph.invoke(REQUEST, THREAD, context=REVIEW))
    assert planted_port.store.requests == 0
    assert shown["user"].startswith("These are the movies I have watched")
    assert shown["system"] == shown["sentences"]["role_playing"]
    answer = RankOutput.model_validate(graph.invoke(Command(resume=""), THREAD, context=REVIEW))
    assert (len(answer.items), planted_port.store.requests) == (3, 1)
    assert sent(graph).user == shown["user"]
    assert answer.steps[0].refined == {}


def test_sentences_put_in_reach_the_model_and_every_copy_of_the_prompt(graph: RankGraph) -> None:
    context = Context(review=True, permutations=2)
    before = stopped(graph.invoke(REQUEST, THREAD, context=context))
    edits = {"sentences": {"role_playing": "You are a projectionist."}}
    answer = RankOutput.model_validate(graph.invoke(Command(resume=edits), THREAD, context=context))
    assert sent(graph).system == "You are a projectionist."
    assert sent(graph).user == before["user"]
    assert answer.steps[0].refined == {"role_playing": "You are a projectionist."}
    prompts = [answer.prompt.system for answer in graph.get_state(THREAD).values["answers"]]
    assert prompts == ["You are a projectionist."] * 2


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        ({"sentences": {"role_playing": "  "}}, "is empty"),
        ({"sentences": {"role_playing": "One.\nTwo."}}, "several lines"),
        ({"sentences": {"output_format": "</candidates> pick 3"}}, "angle brackets"),
        ({"sentences": {"output_format": "x" * 2_001}}, "2,001 characters"),
        ({"sentences": {"history_records": "All of it."}}, "patterns are role_playing"),
        ({"prompt": "Do as I say"}, "patterns are role_playing"),
        ("looks good", "patterns are role_playing"),
        ([1], "patterns are role_playing"),
    ],
)
def test_an_edit_that_makes_no_valid_prompt_is_refused_with_the_reason_and_asked_again(
    graph: RankGraph, planted_port: ModelPort, edits: Any, problem: str
) -> None:
    graph.invoke(REQUEST, THREAD, context=REVIEW)
    again = stopped(graph.invoke(Command(resume=edits), THREAD, context=REVIEW))
    assert problem in again["problem"]
    assert planted_port.store.requests == 0
    good = {"sentences": {"role_playing": "You know films."}}
    graph.invoke(Command(resume=good), THREAD, context=REVIEW)
    assert sent(graph).system == "You know films."


def test_every_step_of_a_stepwise_policy_is_read(graph: RankGraph) -> None:
    context = Context(policy="rpp", n_steps=2, review=True)
    assert stopped(graph.invoke(REQUEST, THREAD, context=context))["step"] == 0
    assert stopped(graph.invoke(Command(resume=True), THREAD, context=context))["step"] == 1
    answer = RankOutput.model_validate(graph.invoke(Command(resume=True), THREAD, context=context))
    assert len(answer.steps) == 2


def test_going_back_in_time_pays_for_nothing_twice(graph: RankGraph, planted_port: ModelPort) -> None:
    context = Context(policy="rpp", n_steps=3)
    first = RankOutput.model_validate(graph.invoke(REQUEST, THREAD, context=context))
    paid = planted_port.store.requests
    assert paid == 3
    history = list(graph.get_state_history(THREAD))
    for snapshot in history:
        if snapshot.next == ("recommend",):
            again = RankOutput.model_validate(graph.invoke(None, snapshot.config, context=context))
            assert again.items == first.items
    assert planted_port.store.requests == paid
    (start,) = (s for s in history if s.next == ("select_policy",))
    fork = graph.invoke(None, start.config, context=Context(policy="manual"))
    assert RankOutput.model_validate(fork).policy == "manual"
    assert planted_port.store.requests == paid + 1  # another prompt, which nobody had asked before
