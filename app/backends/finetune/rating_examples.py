"""Instruction data for ratings: prompts made of training interactions, each with the rating that its user gave."""

from __future__ import annotations

import numpy as np

from promptailor.app.backends.finetune.examples import Example, random_spec
from promptailor.evals.datasets import Dataset
from promptailor.evals.ratings import training_ratings
from promptailor.prompts.errors import DataError
from promptailor.prompts.patterns import Catalogue
from promptailor.prompts.ratings import RatedItem, RatingRequest, assemble_rating


class RatingExamples:
    """Draws examples; equal generators give equal examples. The answer is the bare number, whatever the format.

    Args:
        dataset: only the training part of its ratings, its items and its profiles are read.
        catalogue: the sentences that prompts are made of, one for ratings.

    Raises:
        DataError: there are no ratings, or nobody has two in the training part.
    """

    def __init__(self, dataset: Dataset, catalogue: Catalogue) -> None:
        ratings = {user_id: rated for user_id, rated in training_ratings(dataset).items() if len(rated) > 1}
        if not ratings:
            raise DataError(f"data set {dataset.name}: no user has four interactions, two of them to train on")
        self.user_ids = tuple(ratings)
        self._dataset, self._catalogue = dataset, catalogue
        self._ratings = [
            tuple(RatedItem(item=dataset.items[item_id], rating=rating) for item_id, rating in rated)
            for rated in ratings.values()
        ]

    def draw(self, rng: np.random.Generator, max_history: int | None = None) -> Example:
        """Draw a user at a random moment and a random prompt, which shows at most `max_history` interactions."""
        user = int(rng.integers(len(self._ratings)))
        rated = self._ratings[user]
        moment = int(rng.integers(1, len(rated)))
        request = RatingRequest(
            user_id=self.user_ids[user],
            history=rated[:moment],
            item=rated[moment].item,
            domain=self._dataset.domain,
            user_profile=self._dataset.profiles.get(self.user_ids[user]),
        )
        prompt = assemble_rating(request, random_spec(rng, self._catalogue, max_history), self._catalogue)
        return Example(
            user_id=self.user_ids[user],
            history=tuple(shown.item for shown in rated[moment - prompt.history_length : moment]),
            positive=rated[moment].item,
            messages=prompt.messages,
            answer=f"{rated[moment].rating:g}",
        )
