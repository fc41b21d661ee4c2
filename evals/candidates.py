"""Where candidates come from, besides chance: a retriever over the whole catalogue, or lists that somebody published.

Two questions are asked of a source. **Hard negatives**: the best items that the user never touched, to which the
protocol adds the target. For this the target and the items held out with it are taken out of the source's list first;
the method behind it sees the history only, so what is left is what it would have offered instead. **Retrieval**: the
best items that are not in the history, as a user would deploy it. There the target is no more certain to be among the
candidates than it is in life, and their canonical order is the retriever's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from promptailor.evals.baselines.base import ItemScorer
from promptailor.evals.datasets import Dataset
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import DataError


class CandidateSource(Protocol):
    """Offers items for a user."""

    def covers(self, user_id: str) -> bool:
        """Whether it has anything to offer to the user."""
        ...

    def best(self, user_id: str, history: Sequence[Item]) -> Iterator[str]:
        """Yield distinct item ids of the data set, best first, those of the history perhaps among them."""
        ...


class Retriever:
    """A baseline that ranks the whole catalogue.

    Items that it scores alike come in an order drawn once for the catalogue, which has nothing to do with their ids.
    """

    def __init__(self, scorer: ItemScorer, dataset: Dataset) -> None:
        self._scorer, self._domain = scorer, dataset.domain
        self._catalogue = tuple(sorted(dataset.items.values(), key=lambda item: uniform("catalogue", item.item_id)))

    def covers(self, user_id: str) -> bool:
        """Everybody: who is unknown gets what the baseline offers to unknown users."""
        return True

    def best(self, user_id: str, history: Sequence[Item]) -> Iterator[str]:
        """Yield the catalogue by score."""
        request = RankRequest(user_id=user_id, history=tuple(history), candidates=self._catalogue, domain=self._domain)
        scores = np.asarray(self._scorer.scores(request), dtype=np.float64)
        for place in np.argsort(-scores, kind="stable"):
            yield self._catalogue[place].item_id


class PublishedLists:
    """A file with one line per user, `user_id<TAB>item item item ...`, best first, as LLMRank and RPP publish them.

    Users without a line are not covered. Items that the data set lacks (its k-core may have cut them) and repeats are
    passed over.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        """Read a file.

        Raises:
            DataError: it cannot be read, a line has no tab or a user's second list, or no user is the data set's.
        """
        self._lists: dict[str, tuple[str, ...]] = {}
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--candidates-from {path}: cannot be read ({error})") from None
        for number, line in enumerate(lines, 1):
            user_id, tab, listed = line.partition("\t")
            if not tab:
                raise DataError(f"{path}, line {number}: no tab between the user and the items")
            if user_id in self._lists:
                raise DataError(f"{path}, line {number}: user {user_id!r} has a list already")
            known = (item_id for item_id in listed.split() if item_id in dataset.items)
            self._lists[user_id] = tuple(dict.fromkeys(known))
        if not any(user_id in dataset.sequences and items for user_id, items in self._lists.items()):
            raise DataError(f"{path}: no user and item of it is in data set {dataset.name}; give its own lists")

    def covers(self, user_id: str) -> bool:
        """Whether the user has a line."""
        return user_id in self._lists

    def best(self, user_id: str, history: Sequence[Item]) -> Iterator[str]:
        """Yield the user's line."""
        yield from self._lists.get(user_id, ())
