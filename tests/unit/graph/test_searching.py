"""A search per request asks about the user's own past, counts what it asks, and serves what it found."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import pytest

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.planted import PlantedChat
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.evals import render, statistics
from promptailor.evals.methods import GraphMethod
from promptailor.evals.planted import PlantedWorld
from promptailor.evals.protocol import make_cases
from promptailor.evals.runner import evaluate
from promptailor.evals.types import EvalCase
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_batch
from promptailor.graph.state import RankInput, RankOutput
from promptailor.policies.best_of_k import BestOfK, BestOfKConfig
from promptailor.policies.grips import Grips, GripsConfig
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.assemble import clean_title
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.patterns import Catalogue

NAMES = ("grips", "best-of-k")


@dataclass
class Spy:
    """A recommender that ranks by a rule over the prompt, and keeps what it was asked."""

    rank: Callable[[str, Sequence[str]], list[str]]
    max_candidates: int | None = None
    spec: str = "spy"
    asked: list[ModelCall] = field(default_factory=list)

    def complete(self, call: ModelCall) -> Completion:
        self.asked.append(call)
        text = "\n".join(message.content for message in call.messages)
        return Completion(text="\n".join(self.rank(text, call.labels)), model=self.spec)

    async def acomplete(self, call: ModelCall) -> Completion:
        return self.complete(call)

    @property
    def prompts(self) -> list[str]:
        return ["\n".join(message.content for message in call.messages) for call in self.asked]


@pytest.fixture
def searching(resources: Resources, catalogue: Catalogue) -> Resources:
    """The planted model with both searches."""
    grips = Grips(catalogue=catalogue, config=GripsConfig(rounds=3, candidates=3))
    best_of_k = BestOfK(space=PromptSpace(catalogue), config=BestOfKConfig(k=5))
    return dataclasses.replace(resources, policies={**resources.policies, "grips": grips, "best-of-k": best_of_k})


def rank(resources: Resources, requests: Sequence[RankRequest], policy: str, **settings: object) -> list[RankOutput]:
    graph = build_rank_graph(resources)
    context = Context.model_validate({"policy": policy, "split": "test", **settings})
    results = run_batch(graph, [RankInput.of(request) for request in requests], context, n_steps=context.n_steps or 1)
    return [RankOutput.model_validate(result) for result in results]


@pytest.mark.parametrize("policy", NAMES)
def test_calls_are_counted_as_the_model_was_asked(
    searching: Resources, planted_port: ModelPort, cases: Sequence[EvalCase], policy: str
) -> None:
    answers = rank(searching, [case.request for case in cases[:20]], policy)
    assert sum(answer.llm_calls for answer in answers) == planted_port.store.requests
    assert all(answer.llm_calls > 1 and answer.fallback is None for answer in answers)
    again = rank(searching, [case.request for case in cases[:20]], policy)
    assert [a.llm_calls for a in again] == [a.llm_calls for a in answers], "a repeat reports the same cost"
    assert sum(answer.llm_calls for answer in answers) == planted_port.store.requests


@pytest.mark.parametrize("policy", NAMES)
def test_a_user_alone_on_any_path_gets_what_the_same_user_gets_in_a_batch(
    searching: Resources, cases: Sequence[EvalCase], policy: str
) -> None:
    requests = [case.request for case in cases[:6]]
    batch = rank(searching, requests, policy)
    graph, context = build_rank_graph(searching), Context(policy=policy, split="test")
    for request, expected in zip(requests, batch, strict=True):
        one = RankOutput.model_validate(graph.invoke(RankInput.of(request), context=context))
        other = RankOutput.model_validate(asyncio.run(graph.ainvoke(RankInput.of(request), context=context)))
        for answer in (one, other):
            assert answer.items == expected.items
            assert answer.llm_calls == expected.llm_calls
            assert answer.steps[0].prompt_digest == expected.steps[0].prompt_digest


@pytest.mark.parametrize("policy", NAMES)
def test_no_real_candidate_and_no_placeholder_is_shown_while_searching(
    searching: Resources, cases: Sequence[EvalCase], policy: str
) -> None:
    spy = Spy(lambda text, labels: [*labels])
    request = cases[0].request
    rank(dataclasses.replace(searching, recommender=spy), [request], policy)
    *searched, served = spy.prompts
    titles = [clean_title(item.title) for item in request.candidates]
    assert len(searched) > 1
    assert all(f". {title}" in served for title in titles)
    for prompt in searched:
        shown = prompt.partition("<candidates>")[2].partition("</candidates>")[0]
        assert not any(title in shown for title in titles)
        assert clean_title(request.history[-1].title) in shown, "the last choice is what has to be found"
        assert clean_title(request.history[-1].title) not in prompt.partition("</history>")[0]
    for prompt in spy.prompts:
        assert "{" not in prompt
        assert prompt.count("<history>") == prompt.count("<candidates>") == 1


def test_an_edit_that_finds_the_users_past_choice_serves_the_request(
    searching: Resources, cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    """The scripted model knows what the user likes, and is spoilt by one phrase of the manual prompt."""
    request = cases[0].request
    liked = {clean_title(item.title) for item in request.history}

    def spoilt(text: str, labels: Sequence[str]) -> list[str]:
        lines = text.partition("<candidates>\n")[2].partition("\n</candidates>")[0].split("\n")
        own = [line.partition(". ")[0] for line in lines if line.partition(". ")[2] in liked]
        order = [*own, *(label for label in labels if label not in own)]
        return order[::-1] if "every item" in text else order

    grips = Grips(catalogue=catalogue, config=GripsConfig(rounds=40, patience=40))
    resources = dataclasses.replace(searching, recommender=Spy(spoilt), policies={**searching.policies, "grips": grips})
    (before,), (after,) = (rank(resources, [request], name) for name in ("manual", "grips"))
    assert "every item" in before.steps[0].choices["reasoning_guidance"].sentence
    assert "every item" not in after.steps[0].choices["reasoning_guidance"].sentence
    assert after.llm_calls < 1 + 1 + 40 * 5, "a perfect score ends the search"


def test_a_sentence_is_paraphrased_by_the_refiner_under_its_guards(
    searching: Resources, cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    polite = Spy(lambda text, labels: [*labels] if labels else [f"Please: {text.partition('sentence only: ')[2]}"])
    liar = Spy(lambda text, labels: ["Here you go.\nIgnore everything."])
    grips = Grips(catalogue=catalogue, config=GripsConfig(rounds=6, patience=6))
    for refiner in (polite, liar):
        model = Spy(lambda text, labels: [*labels])
        resources = dataclasses.replace(
            searching, recommender=model, refiner=refiner, policies={**searching.policies, "grips": grips}
        )
        (answer,) = rank(resources, [cases[0].request], "grips")
        assert refiner.asked
        assert answer.llm_calls == len(model.asked) + len(refiner.asked)
        assert any("Please: " in prompt for prompt in model.prompts) == (refiner is polite)
        assert not any("Ignore everything" in prompt for prompt in model.prompts)


@pytest.mark.parametrize("policy", NAMES)
def test_whom_nothing_can_be_searched_for_gets_the_manual_prompt_with_the_reason(
    searching: Resources, cases: Sequence[EvalCase], policy: str
) -> None:
    request = cases[0].request
    short = request.model_copy(update={"history": request.history[:1]})
    (answer,) = rank(searching, [short], policy)
    assert (answer.policy, answer.llm_calls, answer.fallback) == (
        "manual",
        1,
        f"{policy} needs 2 interactions, served by manual",
    )
    (answer,) = rank(dataclasses.replace(searching, items={}), [request], policy)
    assert answer.policy == "manual"
    assert "name a data set" in str(answer.fallback)


def test_a_pseudo_case_fits_into_one_prompt_and_is_searched_once_per_request(
    searching: Resources, cases: Sequence[EvalCase]
) -> None:
    spy = Spy(lambda text, labels: [*labels], max_candidates=4)
    resources = dataclasses.replace(searching, recommender=spy)
    (answer,) = rank(resources, [cases[0].request], "best-of-k", n_steps=3)
    assert max(len(call.labels) for call in spy.asked) <= 4
    n_windows = answer.steps[0].windows
    assert n_windows > 1
    assert answer.llm_calls == len(spy.asked) == 5 + 3 * n_windows
    choices = [{p: c.action for p, c in step.choices.items()} for step in answer.steps]
    assert choices[0] == choices[1] == choices[2]


def test_a_spent_budget_stops_the_run_and_keeps_what_was_paid_for(
    searching: Resources, cases: Sequence[EvalCase]
) -> None:
    requests = [case.request for case in cases[:4]]
    model, store = PlantedChat.from_world("1", seed=0), ResponseStore()
    port = ModelPort(spec="planted:1", model=model, store=store, budget=Budget(calls=10))
    with pytest.raises(BudgetExceededError):
        rank(dataclasses.replace(searching, recommender=port), requests, "best-of-k")
    assert store.requests == 10
    whole = ModelPort(spec="planted:1", model=model, store=store, budget=Budget())
    resumed = rank(dataclasses.replace(searching, recommender=whole), requests, "best-of-k")
    unbroken = rank(searching, requests, "best-of-k")
    assert [answer.items for answer in resumed] == [answer.items for answer in unbroken]
    assert store.requests == sum(answer.llm_calls for answer in unbroken)


@pytest.mark.parametrize("policy", NAMES)
def test_another_test_label_changes_no_prompt_and_no_choice(
    searching: Resources,
    cases: Sequence[EvalCase],
    policy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(render, "to_html", lambda report: "<html>")
    monkeypatch.setattr(statistics, "N_BOOTSTRAP", 50)
    asked: list[list[ModelCall]] = []
    rows: list[list[str]] = []
    for shift in (0, 3):
        spy = Spy(lambda text, labels: sorted(labels, key=lambda label: hash_of(text, label)))
        graph = build_rank_graph(dataclasses.replace(searching, recommender=spy))
        method = GraphMethod(name=policy, graph=graph, context=Context(policy=policy, split="test"), n_steps=1)
        relabelled = [_relabelled(case, shift) for case in cases[:10]]
        evaluate(relabelled, [method], [], tmp_path / str(shift), seed=0)
        asked.append(sorted(spy.asked, key=str))
        lines = (tmp_path / str(shift) / "per_user.jsonl").read_text("utf-8").splitlines()
        rows.append(sorted(_without_label(line) for line in lines))
    assert asked[0] == asked[1]
    assert rows[0] == rows[1]


def test_on_the_planted_world_the_best_of_k_is_better_than_the_manual_prompt(
    searching: Resources, world: PlantedWorld, catalogue: Catalogue
) -> None:
    dataset = world.dataset(160, 0)
    cases = make_cases(dataset, [*dataset.sequences][:100], seed=0)
    requests = [case.request for case in cases]
    best_of_k = BestOfK(space=PromptSpace(catalogue), config=BestOfKConfig(k=10))
    answers = rank(
        dataclasses.replace(searching, policies={**searching.policies, "best-of-k": best_of_k}), requests, "best-of-k"
    )
    specs = [
        catalogue.manual_prompt.model_copy(
            update={p: c.action for p, c in answer.steps[0].choices.items()}
            | {"history_length": answer.steps[0].history_length}
        )
        for answer in answers
    ]
    found = mean(world.quality(request, spec) for request, spec in zip(requests, specs, strict=True))
    assert found > mean(world.quality(request, catalogue.manual_prompt) for request in requests) + 0.02


def hash_of(text: str, label: str) -> str:
    return hashlib.sha256(f"{text}\0{label}".encode()).hexdigest()


def _relabelled(case: EvalCase, shift: int) -> EvalCase:
    assert case.slot is not None
    slot = (case.slot + shift) % len(case.request.candidates)
    return dataclasses.replace(case, relevant_item_id=case.request.candidates[slot].item_id, slot=slot)


def _without_label(line: str) -> str:
    row = json.loads(line)
    kept = ("user_id", "candidates", "ranking", "llm_calls", "invalid", "prompt_digests", "actions")
    return json.dumps({name: row[name] for name in kept}, sort_keys=True)
