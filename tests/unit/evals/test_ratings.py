"""Prompts for ratings: no label reaches them, and a search finds the sentence that a simulated rater obeys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.evals.dataset_spec import DatasetSpec
from promptailor.evals.datasets import Dataset
from promptailor.evals.protocol import split_users
from promptailor.evals.rating_report import compare_ratings, measure
from promptailor.evals.ratings import (
    PredictedRating,
    PromptedRatings,
    Rater,
    RatingCase,
    RatingEvaluator,
    make_rating_cases,
    rating_call,
    rating_reward,
    training_ratings,
)
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import OneShotPolicy
from promptailor.policies.draws import uniform
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.enumeration import enumerate_prompts
from promptailor.policies.manual import manual_policy
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import DataError
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.patterns import load_catalogue
from promptailor.prompts.ratings import MIDDLE, assemble_rating

KINDS = "ab"
ITEMS_PER_KIND = 40
HISTORY = 9
CATALOGUE = load_catalogue(task="rating")
BEST = {"a": "genres", "b": "similarity"}
"""The reasoning sentence under which the simulated rater knows what users of a kind think."""


def quality(title: str) -> int:
    return 1 + int(5 * uniform("quality", title))


@cache
def world(n_users: int = 120) -> Dataset:
    """Two kinds of users who choose from items of their own, and rate them as good as they are."""
    items = {
        f"{kind}{n}": Item(item_id=f"{kind}{n}", title=f"{kind} {n}") for kind in KINDS for n in range(ITEMS_PER_KIND)
    }
    rng = np.random.default_rng(0)
    sequences = {
        f"user-{n}": tuple(f"{KINDS[n % 2]}{i}" for i in rng.choice(ITEMS_PER_KIND, HISTORY, replace=False))
        for n in range(n_users)
    }
    return Dataset(
        spec=DatasetSpec(name="rated", domain="neutral", time="order"),
        items=items,
        sequences=sequences,
        times={user: tuple(map(float, range(HISTORY))) for user in sequences},
        ratings={u: tuple(float(quality(items[i].title)) for i in chosen) for u, chosen in sequences.items()},
    )


@dataclass
class SimulatedRater:
    """A `ChatPort`: knows the item's quality under the one sentence its kind of user needs, else says anything."""

    obeys: bool = True
    spec: str = "fake:rater"
    max_candidates: int | None = None
    calls: list[ModelCall] = field(default_factory=list)

    def complete(self, call: ModelCall) -> Completion:
        self.calls.append(call)
        text = "\n".join(message.content for message in call.messages)
        found = re.search(r"<item>\n- (.*)\n</item>", text)
        assert found
        sentences = {s.id: CATALOGUE.fill(s, "neutral") for s in CATALOGUE.reasoning_guidance.sentences}
        if self.obeys and sentences[BEST[found[1][0]]] in text:
            return Completion(text=f"{quality(found[1])}", model=self.spec)
        return Completion(text=str(1 + int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5), model=self.spec)

    async def acomplete(self, call: ModelCall) -> Completion:
        return self.complete(call)


def cases_of(pool: Sequence[str], dataset: Dataset | None = None) -> tuple[RatingCase, ...]:
    return make_rating_cases(dataset or world(), pool)


def embeddings() -> ItemEmbeddings:
    vectors = np.random.default_rng(1).normal(0.0, 0.1, (2 * ITEMS_PER_KIND, 4)).astype(np.float32)
    vectors[:ITEMS_PER_KIND, 0] += 1.0
    vectors[ITEMS_PER_KIND:, 0] -= 1.0
    tensors = {
        "vectors": vectors,
        "weights": np.ones(len(vectors), np.float32),
        "user_mean": np.zeros(4, np.float32),
        "user_scale": np.ones(1, np.float32),
    }
    return ItemEmbeddings([f"{kind}{n}" for kind in KINDS for n in range(ITEMS_PER_KIND)], tensors)


def test_a_case_holds_everything_before_the_target_and_not_its_rating() -> None:
    dataset = world()
    last, second_last = (make_rating_cases(dataset, ["user-0"], hold)[0] for hold in ("last", "second_last"))
    assert last.request.item.item_id == dataset.sequences["user-0"][-1]
    assert last.rating == dataset.ratings["user-0"][-1]
    assert [rated.rating for rated in last.request.history] == list(dataset.ratings["user-0"][:-1])
    assert second_last.request.item.item_id == dataset.sequences["user-0"][-2]
    assert len(second_last.request.history) == HISTORY - 2


def test_nothing_is_fitted_to_the_last_two_ratings() -> None:
    dataset = world()
    assert training_ratings(dataset)["user-3"] == tuple(
        zip(dataset.sequences["user-3"][:-2], dataset.ratings["user-3"][:-2], strict=True)
    )


def test_a_data_set_without_ratings_or_with_another_scale_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="has no ratings; ml-100k and ml-1m have"):
        training_ratings(replace(world(), ratings={}))
    with pytest.raises(DataError, match="'user-0' rated 10; ratings go from 1 to 5"):
        training_ratings(replace(world(), ratings={**world().ratings, "user-0": (10.0,) * HISTORY}))


@given(st.integers(1, 5), st.data())
def test_the_label_changes_no_byte_of_any_prompt(label: int, data: st.DataObject) -> None:
    dataset = world()
    user = data.draw(st.sampled_from(sorted(dataset.sequences)))
    changed = replace(dataset, ratings={**dataset.ratings, user: (*dataset.ratings[user][:-1], float(label))})
    space = PromptSpace(CATALOGUE)
    spec = space.spec(space.random("leak", data.draw(st.integers(0, 10**6))))

    def call(of: Dataset) -> ModelCall:
        return rating_call(assemble_rating(cases_of([user], of)[0].request, spec, CATALOGUE), "test")

    assert call(changed) == call(dataset)
    assert training_ratings(changed) == training_ratings(dataset)


def test_a_reward_is_one_for_the_exact_rating_and_zero_for_the_other_end() -> None:
    assert [rating_reward(p, 5.0) for p in (5.0, 3.0, 1.0)] == [1.0, 0.5, 0.0]


def test_an_unreadable_answer_counts_as_the_middle_and_is_counted() -> None:
    class Silent(SimulatedRater):
        def complete(self, call: ModelCall) -> Completion:
            return Completion(text="I would rather not say.", model=self.spec)

    rater = Rater(port=Silent(), catalogue=CATALOGUE)
    case = cases_of(["user-1"])[0]
    (answer,) = rater.rate([(case.request, CATALOGUE.manual_prompt)], "test")
    assert (answer.rating, answer.invalid, answer.llm_calls) == (MIDDLE, True, 1)


def search(name: str, evaluator: RatingEvaluator, calls: int) -> OneShotPolicy:
    if name == "manual":
        return manual_policy(CATALOGUE)
    if name == "enumeration":
        return enumerate_prompts(evaluator, PromptSpace(CATALOGUE), calls=calls, seed=0)
    bandit = FactoredBandit(PromptSpace(CATALOGUE), embeddings())
    bandit.fit(evaluator, calls=calls, seed=0)
    return bandit


def predict_all(port: SimulatedRater) -> tuple[tuple[RatingCase, ...], dict[str, list[PredictedRating]]]:
    """Search on training users and predict for test users by every method."""
    split = split_users(world())
    rater = Rater(port=port, catalogue=CATALOGUE)
    evaluator = RatingEvaluator(cases=cases_of(split.train), rater=rater)
    cases = cases_of(split.test)
    predicted = {
        name: PromptedRatings(name=name, policy=search(name, evaluator, 800), rater=rater, seed=0).predict(
            [case.request for case in cases]
        )
        for name in ("manual", "enumeration", "bandit")
    }
    return cases, predicted


def test_searches_find_the_sentences_that_the_rater_obeys() -> None:
    cases, predicted = predict_all(SimulatedRater())
    rmse = {name: measure(cases, answers, name=name, seed=0).rmse.mean for name, answers in predicted.items()}
    chosen = {answer.actions["reasoning_guidance"] for answer in predicted["enumeration"]}
    ids = [sentence.id for sentence in CATALOGUE.reasoning_guidance.sentences]
    assert chosen <= {ids.index(best) for best in BEST.values()}
    assert len(chosen) == 1  # one prompt, right for half of the users
    assert rmse["manual"] > 1.5
    assert rmse["enumeration"] < rmse["manual"] - 0.3
    assert rmse["bandit"] < 0.5  # right for both kinds


def test_nothing_is_gained_with_a_rater_that_obeys_nothing() -> None:
    cases, predicted = predict_all(SimulatedRater(obeys=False))
    pairs = [("enumeration", "manual"), ("bandit", "manual")]
    for comparison in compare_ratings(cases, predicted, pairs, seed=0):
        assert comparison.p_holm > 0.05


def test_searches_ask_about_training_users_only() -> None:
    port, split = SimulatedRater(), split_users(world())
    evaluator = RatingEvaluator(cases=cases_of(split.train), rater=Rater(port=port, catalogue=CATALOGUE))
    search("enumeration", evaluator, 200)
    assert {call.split for call in port.calls} == {"train"}
    about = {re.findall(r"<item>\n- (.*)\n</item>", call.messages[-1].content)[0] for call in port.calls}
    assert about <= {case.request.item.title for case in cases_of(split.train)}


def test_rmse_is_the_root_of_the_mean_square_and_inside_its_interval() -> None:
    cases = cases_of(split_users(world()).test)
    predicted = [
        PredictedRating(user_id=case.request.user_id, rating=case.rating + (2.0 if case.rating < 3 else 0.0))
        for case in cases
    ]
    result = measure(cases, predicted, name="off", seed=0)
    share = sum(case.rating < 3 for case in cases) / len(cases)
    assert result.rmse.mean == pytest.approx((4 * share) ** 0.5)
    assert result.mae.mean == pytest.approx(2 * share)
    assert result.rmse.low < result.rmse.mean < result.rmse.high
