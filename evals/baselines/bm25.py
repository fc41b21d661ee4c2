"""BM25 (Robertson and Zaragoza, 2009): candidates whose titles share rare words with the titles of the history."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from promptailor.evals.baselines.base import ItemScorer
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import MissingExtraError

RECENT = 20
"""Titles of the history that make the query: the older ones add more common words than hints."""
_WORD = re.compile(r"\w+")


class BM25(ItemScorer):
    """Documents are the titles of the catalogue, the query is the titles of the most recent items, taken together.

    A word that stands in several titles of the history counts as often, so a series outweighs a single film. Lucene's
    variant of the formula as `bm25s` has it, k1 = 1.5 and b = 0.75. Departure from a search engine: no stemming, since
    titles are names.
    """

    name = "bm25"

    def __init__(self, items: Mapping[str, Item]) -> None:
        """Index the catalogue: how rare a word is depends on all of it, not on the candidates at hand."""
        try:  # an extra, and the package's other baselines do without it
            import bm25s  # noqa: PLC0415
            from bm25s.stopwords import STOPWORDS_EN  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("bm25", "baselines") from error
        self._stopwords = frozenset(STOPWORDS_EN)
        self._rows = {item_id: row for row, item_id in enumerate(items)}
        corpus = [self.words(item.title) for item in items.values()]
        self._vocabulary = frozenset(word for words in corpus for word in words)
        self._index = bm25s.BM25()
        self._index.index(corpus, show_progress=False)

    def words(self, title: str) -> list[str]:
        """Return a title's words: lower case, no accents, no English stop words unless there is nothing else."""
        plain = unicodedata.normalize("NFKD", title.casefold())
        words = _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))
        return [word for word in words if word not in self._stopwords] or words

    def scores(self, request: RankRequest) -> Sequence[float]:
        """Return each candidate's BM25 score; 0 where it shares no word with the query, or the catalogue lacks it."""
        query = [word for item in request.history[-RECENT:] for word in self.words(item.title)]
        query = [word for word in query if word in self._vocabulary]
        if not query:
            return [0.0] * len(request.candidates)
        rows = [self._rows.get(item.item_id) for item in request.candidates]
        catalogue = np.append(self._index.get_scores(query), 0.0)
        scores: list[float] = catalogue[[-1 if row is None else row for row in rows]].tolist()
        return scores
