"""A data set as the chat graph's retriever: titles by name, candidates by who chose what, kinds, years, words.

Scores come from the evaluation's own baselines over `Dataset.training_sequences()`, so what evaluation holds out is
never in a history, a candidate's score or a reason.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from promptailor.evals.baselines.base import ItemScorer
from promptailor.evals.baselines.bm25 import BM25
from promptailor.evals.baselines.itemknn import ItemKNN
from promptailor.evals.datasets import Dataset
from promptailor.graph.chat.retriever import Facts, Query, TitleMention, is_within
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import MissingExtraError
from promptailor.prompts.titles import TitleIndex, fold, words_of

Array = NDArray[np.float64]

logger = logging.getLogger(__name__)

RECENT = 30
"""Items of a history that candidates are scored and explained by: the most recent."""
CLOSE, MORE_OFTEN = 0.1, 1.3
"""Least cosine between two items' users, and least lift, to say that who chose one chose the other more often."""
_ARTICLES = frozenset({"the", "a", "an"})
_WEIGHTS = {"taste": 1.0, "kinds": 0.6, "text": 0.8, "popularity": 0.15, "lessened": 0.7, "wanted": 1.0}
"""Of the parts of a candidate's score, each of which lies between 0 and 1; only candidates are chosen by it."""


@dataclass(frozen=True)
class CatalogueRetriever:
    """A retriever over a data set, which is read when it is first needed."""

    load: Callable[[], Dataset]
    domain: str
    """The data set's, known before it is read."""
    by_history: Callable[[Dataset], ItemScorer] = lambda dataset: ItemKNN(dataset.training_sequences())
    """Makes the baseline that scores items by a history."""

    def warm(self) -> CatalogueRetriever:
        """Read the data set and fit the baselines now, so that the first visitor does not wait for it."""
        self.retrieve(Query(history=self._catalogue[:1], text="warm", without=("warm",), n=1))
        return self

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The data set's categories, the most frequent first."""
        counts = Counter(kind for item in self._dataset.items.values() for kind in item.categories)
        return tuple(kind for kind, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    @cached_property
    def year_bounds(self) -> tuple[int, int] | None:
        """First and last year of release; None where the data set has none."""
        years = self._dataset.years.values()
        return (min(years), max(years)) if years else None

    def item(self, item_id: str) -> Item | None:
        """Return an item; None where the data set does not have it."""
        return self._dataset.items.get(item_id)

    def history(self, user_id: str) -> tuple[Item, ...] | None:
        """Return a user's training interactions, oldest first; None where the data set has no such user."""
        sequence = self._dataset.sequences.get(user_id)
        return None if sequence is None else tuple(self._dataset.items[item_id] for item_id in sequence[:-2])

    def mentions(self, words: Sequence[str]) -> list[TitleMention]:
        """Find titles, with or without their article, the longest at each place."""
        found: list[TitleMention] = []
        at = 0
        while at < len(words):
            length = self._titles.longest_at(words, at)
            if length:
                matches = self._titles.named(tuple(words[at : at + length]))
                item = min((self._titled[match] for match in matches), key=self._place_of)
                found.append(TitleMention(start=at, stop=at + length, item=item))
            at += length or 1
        return found

    def popular(self, n: int) -> list[Item]:
        """Return the most chosen items."""
        return [self._catalogue[row] for row in np.argsort(self._places, kind="stable")[:n]]

    def retrieve(self, query: Query) -> list[Facts]:
        """Return candidates by score; those that fulfil every wish first."""
        rows, fits = self._allowed(query)
        if not len(rows):
            return []
        scores = self._scores(query)[rows]
        order = rows[np.lexsort((self._places[rows], -scores, ~fits))][: query.n]
        fitting = dict(zip(rows.tolist(), fits.tolist(), strict=True))
        return self._facts(query, order, fitting)

    def _allowed(self, query: Query) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the rows that may be offered, and which of them fulfil every wish."""
        known = {item.item_id for item in (*query.history, *query.anchors)} | query.excluded
        allowed = np.ones(len(self._catalogue), dtype=np.bool_)
        allowed[[self._rows[item_id] for item_id in known if item_id in self._rows]] = False
        allowed &= ~self._has_any(query.avoided)
        for word in query.without:
            allowed[self._rows_of_word.get(word, [])] = False
        fits = np.ones(len(self._catalogue), dtype=np.bool_)
        if query.wanted:
            fits &= self._has_any(query.wanted)
        if query.years is not None:
            years = query.years
            fits &= np.array([year is not None and is_within(year, years) for year in self._years])
        rows = np.flatnonzero(allowed)
        return rows, fits[rows]

    def _scores(self, query: Query) -> Array:
        """Return one score per item of the catalogue."""
        scores = _WEIGHTS["popularity"] * self._popularity
        if like := query.anchors or query.history[-RECENT:]:
            scores += _WEIGHTS["taste"] * _scaled(self._by_history(like))
        if query.anchors:
            shared = np.mean([self._overlap(anchor.categories) for anchor in query.anchors], axis=0)
            scores += _WEIGHTS["kinds"] * shared
            scores += _WEIGHTS["text"] * 0.5 * self._text_scores([anchor.title for anchor in query.anchors])
        if query.text:
            scores += _WEIGHTS["text"] * self._text_scores([query.text])
        if query.wanted:
            scores += _WEIGHTS["wanted"] * self._overlap(query.wanted)
        if query.lessened:
            scores -= _WEIGHTS["lessened"] * self._share(query.lessened)
        return scores

    def _facts(self, query: Query, rows: NDArray[np.int64], fits: Mapping[int, bool]) -> list[Facts]:
        items = [self._catalogue[row] for row in rows]
        anchors = self._close(items, query.anchors)
        history = self._close(items, query.history[-RECENT:])
        in_text = self._text_scores([query.text])[rows] > 0 if query.text else np.zeros(len(rows), dtype=np.bool_)
        shared_with = tuple(anchor.title for anchor in query.anchors)
        common = set.intersection(*(set(a.categories) for a in query.anchors)) if query.anchors else set()
        facts = []
        for place, (row, item) in enumerate(zip(rows.tolist(), items, strict=True)):
            shared = tuple(kind for kind in item.categories if kind in common)
            facts.append(
                Facts(
                    item=item,
                    year=self._years[row],
                    wanted=tuple(kind for kind in item.categories if kind in query.wanted),
                    like_anchors=anchors[place],
                    shared=shared,
                    shared_with=shared_with if shared else (),
                    like_history=history[place],
                    in_text=bool(in_text[place]),
                    n_users=int(self._counts[row]),
                    popularity=int(self._places[row]) + 1,
                    fits=fits[row],
                )
            )
        return facts

    def _close(self, items: Sequence[Item], others: Sequence[Item]) -> list[tuple[str, ...]]:
        """Return for each item the titles of the others that were often chosen by the same people, closest first."""
        if not others:
            return [()] * len(items)
        cosines = self._knn.cosines(items, others)
        counts, other_counts = (np.maximum([self._count_of(item) for item in these], 1) for these in (items, others))
        # For binary columns, P(both) / (P(one) P(other)) is their cosine over what chance would make of it.
        lift = cosines * len(self._dataset.sequences) / np.sqrt(np.outer(counts, other_counts))
        close = (cosines >= CLOSE) & (lift >= MORE_OFTEN)
        return [
            tuple(others[column].title for column in order if close[row, column])
            for row, order in enumerate(np.argsort(-cosines, axis=1, kind="stable"))
        ]

    def _by_history(self, history: Sequence[Item]) -> Array:
        return np.asarray(self._scorer.scores(self._request(tuple(history), self._catalogue)), dtype=np.float64)

    def _request(self, history: tuple[Item, ...], candidates: Sequence[Item]) -> RankRequest:
        return RankRequest(user_id="retriever", history=history, candidates=tuple(candidates), domain=self.domain)

    def _text_scores(self, texts: Sequence[str]) -> Array:
        """Return how well each title fits some texts, the best at 1; all 0 where no word fits."""
        query = tuple(Item(item_id=str(n), title=text) for n, text in enumerate(texts) if text)
        if self._bm25 is None:
            return np.zeros(len(self._catalogue))
        scores = np.asarray(self._bm25.scores(self._request(query, self._catalogue)), dtype=np.float64)
        return scores / scores.max() if scores.max() > 0 else np.zeros(len(scores))

    def _overlap(self, kinds: Sequence[str]) -> Array:
        """Return the share of some kinds that each item has."""
        return self._count_kinds(kinds) / max(len(set(kinds)), 1)

    def _share(self, kinds: Sequence[str]) -> Array:
        """Return which share of each item's own kinds are among some."""
        return self._count_kinds(kinds) / np.maximum(self._n_kinds, 1)

    def _has_any(self, kinds: Sequence[str]) -> NDArray[np.bool_]:
        return self._count_kinds(kinds) > 0

    def _count_kinds(self, kinds: Sequence[str]) -> Array:
        """Return how many of some kinds each item has."""
        counts = np.zeros(len(self._catalogue))
        for kind in set(kinds):
            counts[self._rows_of_kind.get(kind, [])] += 1.0
        return counts

    def _count_of(self, item: Item) -> int:
        return int(self._counts[self._rows[item.item_id]])

    def _place_of(self, item: Item) -> int:
        return int(self._places[self._rows[item.item_id]])

    @cached_property
    def _dataset(self) -> Dataset:
        return self.load()

    @cached_property
    def _catalogue(self) -> tuple[Item, ...]:
        return tuple(self._dataset.items.values())

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {item.item_id: row for row, item in enumerate(self._catalogue)}

    @cached_property
    def _rows_of_kind(self) -> Mapping[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self._catalogue):
            for kind in set(item.categories):
                rows.setdefault(kind, []).append(row)
        return rows

    @cached_property
    def _rows_of_word(self) -> Mapping[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self._catalogue):
            for word in set(words_of(fold(item.title))):
                rows.setdefault(word, []).append(row)
        return rows

    @cached_property
    def _n_kinds(self) -> Array:
        return np.array([len(set(item.categories)) for item in self._catalogue], dtype=np.float64)

    @cached_property
    def _years(self) -> list[int | None]:
        return [self._dataset.years.get(item.item_id) for item in self._catalogue]

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Training interactions by row."""
        counts = Counter(item_id for chosen in self._dataset.training_sequences().values() for item_id in chosen)
        return np.array([counts[item.item_id] for item in self._catalogue])

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Places by popularity, from 0."""
        places = np.empty(len(self._catalogue), dtype=np.int64)
        places[np.argsort(-self._counts, kind="stable")] = np.arange(len(self._catalogue))
        return places

    @cached_property
    def _popularity(self) -> Array:
        return _scaled(np.log1p(self._counts))

    @cached_property
    def _knn(self) -> ItemKNN:
        return ItemKNN(self._dataset.training_sequences())

    @cached_property
    def _scorer(self) -> ItemScorer:
        return self.by_history(self._dataset)

    @cached_property
    def _bm25(self) -> BM25 | None:
        try:
            return BM25(self._dataset.items)
        except MissingExtraError as error:
            logger.warning("words of titles are not searched: %s", error)
            return None

    @cached_property
    def _titled(self) -> list[Item]:
        """Items in the order of the forms in `_titles`."""
        return [item for item in self._catalogue for _ in _forms(item.title)]

    @cached_property
    def _titles(self) -> TitleIndex:
        return TitleIndex([form for item in self._catalogue for form in _forms(item.title)])


def _forms(title: str) -> Iterator[str]:
    """Yield a title, and how people write it: without its article."""
    yield title
    words = words_of(fold(title))
    if len(words) > 1 and words[0] in _ARTICLES:
        yield " ".join(words[1:])


def _scaled(values: Array) -> Array:
    """Return values from 0 to 1; all 0 where they do not differ."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros(len(values))
