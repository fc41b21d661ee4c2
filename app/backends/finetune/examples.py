"""Instruction data: prompts made of training interactions, each with the ranking to answer.

Only `Dataset.training_sequences()` is read, so the last two items of no user are ever a positive, in a history, or
known not to be a negative.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from promptailor.app.backends.embedded.corpus import answer_text
from promptailor.evals.datasets import Dataset
from promptailor.prompts.assemble import assemble
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import DataError
from promptailor.prompts.llm import Message
from promptailor.prompts.patterns import Catalogue, PromptSpec, SentencePattern

_NO_SENTENCE = 0.1
"""Probability that a sentence pattern is left out, so that the model does not need it."""
_WITH_PROFILE = 0.1
_TEN_CANDIDATES = 0.6
"""Probability of the usual number of candidates; otherwise there are 4 to 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt and its answer."""

    user_id: str
    history: tuple[Item, ...]
    """As shown, oldest first."""
    positive: Item
    """What the user chose next, and rated."""
    messages: tuple[Message, ...]
    answer: str


class Examples(Protocol):
    """Where a training run takes its examples from."""

    @property
    def user_ids(self) -> tuple[str, ...]:
        """Users whose training part they are made of."""
        ...

    def draw(self, rng: np.random.Generator, max_history: int | None = None) -> Example:
        """Draw an example whose prompt shows at most `max_history` interactions; equal generators give equal ones."""
        ...


class RankingExamples:
    """Draws examples; equal generators give equal examples.

    The answer begins with what the user chose next. The other candidates follow by popularity in the training part, not
    in random order: most of an answer's tokens are about them, and an order that can be learnt keeps their loss from
    being noise.

    Args:
        dataset: only its training sequences, items and profiles are read.
        catalogue: the sentences that prompts are made of.

    Raises:
        DataError: nobody has two training interactions, or there are too few items.
    """

    def __init__(self, dataset: Dataset, catalogue: Catalogue) -> None:
        sequences = {user_id: items for user_id, items in dataset.training_sequences().items() if len(items) > 1}
        if not sequences:
            raise DataError(f"data set {dataset.name}: no user has four interactions, two of them to train on")
        longest = max(map(len, sequences.values()))
        if (n_items := len(dataset.items)) < longest + 20:
            raise DataError(f"data set {dataset.name}: {n_items} items are too few to draw negatives from")
        self.user_ids = tuple(sequences)
        self._dataset, self._catalogue = dataset, catalogue
        self._sequences = list(sequences.values())
        self._item_ids = list(dataset.items)
        self._popularity = Counter(item_id for sequence in sequences.values() for item_id in sequence)

    def draw(self, rng: np.random.Generator, max_history: int | None = None) -> Example:
        """Draw a user at a random moment and a random prompt, which shows at most `max_history` interactions."""
        user = int(rng.integers(len(self._sequences)))
        sequence = self._sequences[user]
        moment = int(rng.integers(1, len(sequence)))
        spec = random_spec(rng, self._catalogue, max_history)
        candidates = [sequence[moment], *self._negatives(rng, sequence)]
        request = RankRequest(
            user_id=str(rng.integers(1 << 62)),  # keys the shown order, which has to differ each time the user is drawn
            history=tuple(self._dataset.items[item_id] for item_id in sequence[:moment]),
            candidates=tuple(self._dataset.items[item_id] for item_id in candidates),
            domain=self._dataset.domain,
            user_profile=self._dataset.profiles.get(self.user_ids[user]),
        )
        prompt = assemble(request, spec, self._catalogue, seed=0)
        number = {item.item_id: n for n, item in enumerate(prompt.shown, 1)}
        order = [candidates[0], *sorted(candidates[1:], key=lambda item_id: (-self._popularity[item_id], item_id))]
        output_format = self._catalogue.output_format.sentences[spec.output_format or 0]
        titles = [self._dataset.items[item_id].title for item_id in order]
        return Example(
            user_id=self.user_ids[user],
            history=request.history[len(request.history) - prompt.history_length :],
            positive=request.candidates[0],
            messages=prompt.messages,
            answer=answer_text(output_format, [number[item_id] for item_id in order], titles),
        )

    def _negatives(self, rng: np.random.Generator, sequence: tuple[str, ...]) -> list[str]:
        """Draw items that the user's training part does not touch; what is held out can be among them, as anything."""
        usual, other = 10, int(rng.integers(4, 21))
        n = (usual if rng.random() < _TEN_CANDIDATES else other) - 1
        touched, negatives = set(sequence), dict[str, None]()
        while len(negatives) < n:
            item_id = self._item_ids[int(rng.integers(len(self._item_ids)))]
            if item_id not in touched:
                negatives.setdefault(item_id)
        return list(negatives)


def random_spec(rng: np.random.Generator, catalogue: Catalogue, max_history: int | None) -> PromptSpec:
    """Draw a prompt, which shows at most `max_history` interactions."""

    def choose(pattern: SentencePattern) -> int | None:
        index = int(rng.integers(catalogue.n_actions(pattern)))
        return None if rng.random() < _NO_SENTENCE else index

    length = int(rng.integers(1, catalogue.history_records.max_length + 1))
    subset = int(rng.integers(catalogue.n_actions("user_profile")))
    return PromptSpec(
        role_playing=choose("role_playing"),
        history_length=length if max_history is None else min(length, max_history),
        reasoning_guidance=choose("reasoning_guidance"),
        output_format=choose("output_format"),
        user_profile=subset if rng.random() < _WITH_PROFILE else 0,
    )
