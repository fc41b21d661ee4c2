"""What fine-tuning gained, measured on validation users; test users are never asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from peft import PeftModel

from promptailor.app.backends.finetune.folder import Validation
from promptailor.app.backends.local.engine import Engine
from promptailor.app.progress import progress_bar
from promptailor.evals.datasets import Dataset
from promptailor.evals.protocol import make_cases, split_users
from promptailor.evals.ratings import make_rating_cases, rating_reward
from promptailor.evals.statistics import estimate
from promptailor.graph.rollout import Progress as Advance
from promptailor.policies.reward import ndcg
from promptailor.prompts.assemble import assemble
from promptailor.prompts.errors import DataError
from promptailor.prompts.patterns import Catalogue
from promptailor.prompts.ratings import RATING_LABELS, assemble_rating, parse_rating, write_distribution

T = TypeVar("T")

MAX_USERS = 200
_MIN_USERS = 2
_AT_ONCE = 64


class Check(Protocol):
    """What a model is asked about the validation users, and how well it did."""

    @property
    def user_ids(self) -> tuple[str, ...]:
        """The users asked about."""
        ...

    def scores(self, engine: Engine, advance: Advance) -> list[float]:
        """Return one score per user, higher being better; `advance` is told of users."""
        ...


class RankingCheck:
    """NDCG@10 on second-to-last items among ten candidates: the manual prompt, ranked by its first answer token."""

    def __init__(self, dataset: Dataset, catalogue: Catalogue, seed: int) -> None:
        self.user_ids = _validation_users(dataset)
        self._cases = make_cases(dataset, self.user_ids, seed=seed, hold_out="second_last")
        self._catalogue, self._seed = catalogue, seed

    def scores(self, engine: Engine, advance: Advance) -> list[float]:
        """Return NDCG@10 of each case."""
        scores = []
        manual = self._catalogue.manual_prompt
        for some in _chunks(self._cases):
            prompts = [assemble(case.request, manual, self._catalogue, seed=self._seed) for case in some]
            read = engine.rank_batch([prompt.messages for prompt in prompts], [prompt.labels for prompt in prompts])
            for case, prompt, of_prompt in zip(some, prompts, read, strict=True):
                ranked = [prompt.shown[int(label) - 1].item_id for label in of_prompt.ranking]
                scores.append(ndcg(ranked, {case.relevant_item_id}, 10))
            advance(len(some))
        return scores


class RatingCheck:
    """1 - |error| / 4 on second-to-last ratings: the manual prompt, its first answer token's expected rating."""

    def __init__(self, dataset: Dataset, catalogue: Catalogue, seed: int) -> None:
        self.user_ids = _validation_users(dataset)
        self._cases = make_rating_cases(dataset, self.user_ids, "second_last")
        self._catalogue = catalogue

    def scores(self, engine: Engine, advance: Advance) -> list[float]:
        """Return the reward of each case."""
        scores = []
        for some in _chunks(self._cases):
            prompts = [assemble_rating(case.request, self._catalogue.manual_prompt, self._catalogue) for case in some]
            read = engine.rank_batch([prompt.messages for prompt in prompts], [RATING_LABELS] * len(prompts))
            for case, of_prompt in zip(some, read, strict=True):
                rating = parse_rating(write_distribution(of_prompt.log_probs))
                assert rating is not None, "every label has a chance"
                scores.append(rating_reward(rating, case.rating))
            advance(len(some))
        return scores


def validate(adapted: PeftModel, engine: Engine, check: Check, *, seed: int) -> Validation:
    """Ask about the validation users without and with the adapter, which sits in the engine's model."""
    adapted.train(False)
    with progress_bar("validating", 2 * len(check.user_ids)) as advance:
        with adapted.disable_adapter():
            before = check.scores(engine, advance)
        after = check.scores(engine, advance)
    key = ("finetune", seed)
    return Validation(
        user_ids=check.user_ids,
        before=estimate(before, key=(*key, "before")),
        after=estimate(after, key=(*key, "after")),
        gain=estimate([a - b for a, b in zip(after, before, strict=True)], key=(*key, "gain")),
    )


def _validation_users(dataset: Dataset) -> tuple[str, ...]:
    """Return the first validation users; too few for an interval are a `DataError`."""
    users = split_users(dataset).validation[:MAX_USERS]
    if len(users) < _MIN_USERS:
        raise DataError(f"data set {dataset.name}: {len(users)} validation user(s); at least {_MIN_USERS} are needed")
    return users


def _chunks(cases: Sequence[T]) -> Iterator[Sequence[T]]:
    return (cases[start : start + _AT_ONCE] for start in range(0, len(cases), _AT_ONCE))
