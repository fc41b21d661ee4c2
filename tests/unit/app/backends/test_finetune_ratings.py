"""What a model is taught of ratings, and what it is never shown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from promptailor.evals.datasets import Dataset
from promptailor.prompts.errors import DataError
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("peft")

from promptailor.app.backends.finetune.examples import Example
from promptailor.app.backends.finetune.rating_examples import RatingExamples

CATALOGUE = load_catalogue(task="rating")


@pytest.fixture(scope="module")
def rated(film_dataset: Dataset) -> Dataset:
    rng = np.random.default_rng(0)
    ratings = {user: tuple(rng.integers(1, 6, len(s)).astype(float)) for user, s in film_dataset.sequences.items()}
    return dataclasses.replace(film_dataset, ratings=ratings)


def draw(dataset: Dataset, n: int, seed: int = 0) -> list[Example]:
    examples, rng = RatingExamples(dataset, CATALOGUE), np.random.default_rng(seed)
    return [examples.draw(rng) for _ in range(n)]


def test_the_last_two_interactions_of_every_user_change_nothing(rated: Dataset) -> None:
    items = {user: (*s[:-2], "i0", "i59") for user, s in rated.sequences.items()}
    ratings = {user: (*r[:-2], 6 - r[-2], 6 - r[-1]) for user, r in rated.ratings.items()}
    assert draw(rated, 300) == draw(dataclasses.replace(rated, sequences=items, ratings=ratings), 300)


def test_the_answer_is_the_rating_of_the_item_right_after_the_history(rated: Dataset) -> None:
    for example in draw(rated, 200):
        sequence, ratings = rated.sequences[example.user_id], rated.ratings[example.user_id]
        moment = sequence.index(example.positive.item_id)
        start = moment - len(example.history)
        assert tuple(item.item_id for item in example.history) == sequence[start:moment]
        assert float(example.answer) == ratings[moment]
        text = example.messages[-1].content
        lines = text.partition("<history>\n")[2].partition("\n</history>")[0].split("\n")
        assert [float(line.split(".")[0]) for line in lines] == list(ratings[start:moment])
        assert f"<item>\n- {example.positive.title}\n</item>" in text


def test_a_data_set_without_ratings_is_an_error(film_dataset: Dataset, rated: Dataset) -> None:
    with pytest.raises(DataError, match="has no ratings"):
        RatingExamples(film_dataset, CATALOGUE)
    short = {user: s[:3] for user, s in rated.sequences.items()}
    of_short = {user: r[:3] for user, r in rated.ratings.items()}
    with pytest.raises(DataError, match="no user has four interactions"):
        RatingExamples(dataclasses.replace(rated, sequences=short, ratings=of_short), CATALOGUE)
