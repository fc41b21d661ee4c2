"""Finding titles in text a model wrote: a copied title may differ in case, accents, quotes, brackets and articles."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CLOSING_BRACKET = re.compile(r"\s*\([^()]*\)$")
_TRAILING_ARTICLE = re.compile(r"(.+), (the|a|an|la|le|les|l'|el|los|las|il|der|die|das)")

Words = tuple[str, ...]


def fold(text: str) -> str:
    """Return a text without case, accents and compatibility forms; punctuation and lines stay."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    return text.casefold()


def plain(word: str) -> str:
    """Return a match of `WORD` without apostrophes."""
    return word.replace("'", "").replace("’", "")


def words_of(folded: str) -> Words:
    """Return a folded text's words."""
    return tuple(plain(word) for word in WORD.findall(folded))


class TitleIndex:
    """The candidates' titles, looked up by a whole text or as the longest one at a place in a text."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._by_text: defaultdict[str, list[int]] = defaultdict(list)
        full: defaultdict[Words, list[int]] = defaultdict(list)
        short: defaultdict[Words, list[int]] = defaultdict(list)
        for index, title in enumerate(titles):
            text = " ".join(fold(title).split())
            self._by_text[text].append(index)
            full[words_of(text)].append(index)
            for form in {words_of(form) for form in _short_forms(text)}:
                short[form].append(index)
        self._by_words = {words: tuple(indexes) for words, indexes in {**short, **full}.items() if words}
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for words in self._by_words:
            lengths[words[0]].add(len(words))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def matches(self, text: str) -> tuple[int, ...]:
        """Return the candidates whose title a folded text is; titles that differ in punctuation are told apart."""
        squeezed = " ".join(text.split())
        return tuple(self._by_text.get(squeezed, ())) if squeezed in self._by_text else self.named(words_of(text))

    def named(self, words: Words) -> tuple[int, ...]:
        """Return the candidates whose title has exactly these words."""
        return self._by_words.get(words, ())

    def longest_at(self, words: Sequence[str], start: int) -> int:
        """Return how many words the longest title at `words[start]` has; 0 where none starts there."""
        for length in self._lengths.get(words[start], ()):
            title = tuple(words[start : start + length])
            if title in self._by_words:
                return len(title)
        return 0


def _short_forms(text: str) -> Iterator[str]:
    """Yield how models shorten a catalogue's titles: "matrix, the (1999)" to "matrix, the" and "the matrix"."""
    bare = _CLOSING_BRACKET.sub("", text)
    yield bare
    if inverted := _TRAILING_ARTICLE.fullmatch(bare):
        yield f"{inverted[2]} {inverted[1]}"
