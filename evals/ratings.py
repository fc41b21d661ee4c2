"""Rating prediction: the cases, and the methods that ask a model.

A training, validation or test user is scored on the rating of the LAST item, as in the ranking protocol; nothing is
fitted to the ratings of anybody's last two items. What a prompt earns is 1 - |error| / 4: one for the exact rating,
zero for the other end of the scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from promptailor.evals.datasets import Dataset
from promptailor.evals.protocol import PLACES_FROM_END, HoldOut
from promptailor.graph.rollout import Progress, complete_all
from promptailor.policies.base import OneShotPolicy, Trial
from promptailor.policies.types import StateInputs
from promptailor.prompts.assemble import Prompt
from promptailor.prompts.errors import DataError
from promptailor.prompts.llm import ChatPort, ModelCall, Split
from promptailor.prompts.patterns import Catalogue, PromptSpec
from promptailor.prompts.ratings import (
    HIGHEST,
    LOWEST,
    MIDDLE,
    RATING_LABELS,
    RatedItem,
    RatingRequest,
    assemble_rating,
    parse_rating,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingCase:
    """One user to predict a rating for, and the rating, which no prompt and no method may see."""

    request: RatingRequest
    rating: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRating:
    """A method's answer to one request."""

    user_id: str
    rating: float
    llm_calls: int = 0
    """Model answers it took, cached ones included."""
    invalid: bool = False
    """Whether no rating could be read, so that the middle of the scale stands for it."""
    prompt_digest: str | None = None
    actions: Mapping[str, int | None] = field(default_factory=dict)
    """The prompt in numbers."""


class RatingMethod(Protocol):
    """Something that predicts ratings."""

    @property
    def name(self) -> str:
        """The method's name in records and reports."""
        ...

    def predict(self, requests: Sequence[RatingRequest], progress: Progress | None = None) -> list[PredictedRating]:
        """Predict each request's rating, in order; `progress` is told of users."""
        ...


def training_ratings(dataset: Dataset) -> dict[str, tuple[tuple[str, float], ...]]:
    """Return every user's items and ratings without the last two: all that anything may be fitted to.

    Raises:
        DataError: the data set has no ratings, or not on the scale that prompts speak of.
    """
    if not dataset.ratings:
        raise DataError(
            f"data set {dataset.name}: has no ratings; ml-100k and ml-1m have, or name the column in the spec "
            "(`interactions: {rating: COLUMN}`)"
        )
    for user_id, ratings in dataset.ratings.items():
        if odd := [rating for rating in ratings if not LOWEST <= rating <= HIGHEST]:
            raise DataError(
                f"data set {dataset.name}: user {user_id!r} rated {odd[0]:g}; ratings go from {LOWEST} to {HIGHEST}"
            )
    return {
        user_id: tuple(zip(item_ids[:-2], dataset.ratings[user_id][:-2], strict=True))
        for user_id, item_ids in dataset.sequences.items()
    }


def make_rating_cases(dataset: Dataset, user_ids: Sequence[str], hold_out: HoldOut = "last") -> tuple[RatingCase, ...]:
    """Make one case per user: the held-out item with everything before it, ratings included, as its history.

    Raises:
        DataError: a user has no history before the target.
    """
    cases = []
    for user_id in user_ids:
        ratings = dataset.ratings[user_id]
        items = [dataset.items[item_id] for item_id in dataset.sequences[user_id]]
        place = len(items) - PLACES_FROM_END[hold_out]
        if place < 1:
            raise DataError(f"user {user_id!r} has no history before the target; leave such users out")
        before = zip(items[:place], ratings[:place], strict=True)
        request = RatingRequest(
            user_id=user_id,
            history=tuple(RatedItem(item=item, rating=rating) for item, rating in before),
            item=items[place],
            domain=dataset.domain,
            user_profile=dataset.profiles.get(user_id),
        )
        cases.append(RatingCase(request=request, rating=ratings[place]))
    return tuple(cases)


def rating_reward(predicted: float, rating: float) -> float:
    """Return what a prediction earns, from 0 to 1."""
    return 1.0 - abs(predicted - rating) / (HIGHEST - LOWEST)


def rating_call(prompt: Prompt, split: Split) -> ModelCall:
    """Return what a model is asked.

    Nothing is shuffled between two trials of a prompt on the same user, so that both are one call.
    """
    return ModelCall(messages=prompt.messages, labels=RATING_LABELS, split=split)


def initial_inputs(request: RatingRequest, catalogue: Catalogue) -> StateInputs:
    """Return what a policy reads a user by: the items and the known fields of the profile, not the ratings."""
    return StateInputs(
        history=tuple(rated.item for rated in request.history),
        step=0,
        history_length=catalogue.history_records.initial_length,
        profile=request.user_profile.known if request.user_profile else (),
    )


@dataclass(frozen=True, kw_only=True)
class Rater:
    """A model that is asked for ratings."""

    port: ChatPort
    catalogue: Catalogue

    def rate(
        self, asked: Sequence[tuple[RatingRequest, PromptSpec]], split: Split, progress: Progress | None = None
    ) -> list[PredictedRating]:
        """Ask for each request with its prompt, all of them side by side.

        Raises:
            BudgetExceededError: the budget allows no further call; every answer so far is stored.
        """
        prompts = [assemble_rating(request, spec, self.catalogue) for request, spec in asked]
        answers = complete_all(self.port, [rating_call(prompt, split) for prompt in prompts], progress)
        predicted = []
        for (request, _), prompt, answer in zip(asked, prompts, answers, strict=True):
            rating = parse_rating(answer.text)
            predicted.append(
                PredictedRating(
                    user_id=request.user_id,
                    rating=MIDDLE if rating is None else rating,
                    llm_calls=answer.calls,
                    invalid=rating is None,
                    prompt_digest=prompt.digest,
                    actions=prompt.spec.model_dump(exclude={"history_length"})
                    | {"history_length": prompt.history_length},
                )
            )
        return predicted


@dataclass(frozen=True, kw_only=True)
class PromptedRatings:
    """A one-shot policy that writes the prompt, and the model that answers it; a `RatingMethod`."""

    name: str
    policy: OneShotPolicy
    rater: Rater
    seed: int

    def predict(self, requests: Sequence[RatingRequest], progress: Progress | None = None) -> list[PredictedRating]:
        """Predict with one call per user."""
        return self.rater.rate([(request, self._spec(request)) for request in requests], "test", progress)

    def _spec(self, request: RatingRequest) -> PromptSpec:
        inputs = initial_inputs(request, self.rater.catalogue)
        return self.policy.choose(inputs, key=(self.seed, request.user_id), explore=False).spec


@dataclass(frozen=True, kw_only=True)
class RatingEvaluator:
    """Trials of prompts on training users; a `policies.base.PromptEvaluator`."""

    cases: Sequence[RatingCase]
    rater: Rater
    progress: Progress | None = None

    @cached_property
    def _by_user(self) -> dict[str, RatingCase]:
        return {case.request.user_id: case for case in self.cases}

    @property
    def user_ids(self) -> Sequence[str]:
        """The training users, in a fixed order."""
        return tuple(self._by_user)

    def inputs(self, user_id: str) -> StateInputs:
        """The user's state at step 0."""
        return initial_inputs(self._by_user[user_id].request, self.rater.catalogue)

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        """Return the reward of each trial, in order."""
        cases = [self._by_user[trial.user_id] for trial in trials]
        asked = [(case.request, trial.spec) for case, trial in zip(cases, trials, strict=True)]
        predicted = self.rater.rate(asked, "train", self.progress)
        return [rating_reward(p.rating, case.rating) for p, case in zip(predicted, cases, strict=True)]
