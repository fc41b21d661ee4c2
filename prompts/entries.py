"""Entries: what one line of a model's answer lists. `prompts.parse` makes a ranking of them.

Lines come folded (`prompts.titles.fold`). Titles are untrusted and may look like numbers, labels or whole lists, so a
reading in which number and title agree goes before every other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from promptailor.prompts.titles import WORD, TitleIndex, plain, words_of

_LABEL = re.compile(
    r"\W*(?:\b(?:candidate|item|no|number|option|rank)\W*)?"  # bullets, quotes, brackets; a word before the number
    r"(\d+)(?!\w)[\])]*\s*[.:)|–—-]?\s*"
)
_PUNCTUATED_LABEL = re.compile(r"\W*\d+\s*[.:)\]|–—-]")
_TITLE_ENDS = re.compile(r"\s*(?:[^\w\s]|$)")
_SEPARATOR = re.compile(r"[,;|>/→]")
_BRACKETED = re.compile(r"\([^()]*\)")
_BULLET = re.compile(r"[-*•+–]\s")
_MAX_TITLE_WORDS = 12

Reading = tuple[tuple[int, ...], str]
"""Numbers at the start of a line, and the text behind them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a list, as written."""

    kind: Literal["number", "label", "title"]
    """A bare number, a number with text behind it, or bare text."""
    numbers: tuple[int, ...] = ()
    """As written; two where a rank may stand before the candidate's number."""
    matches: tuple[int, ...] = ()
    """Candidates with the entry's title: several where titles are equal, none where no candidate has it."""
    certain: bool = True
    """False where a title is only the start of the text, or the text may be no entry at all."""


@dataclass(frozen=True, slots=True)
class Mention:
    """An entry somewhere in a text, from `start` up to `end`."""

    start: int
    end: int
    entry: Entry


class LineReader:
    """Reads the lines of an answer that ranks some candidates."""

    def __init__(self, titles: TitleIndex, n_candidates: int) -> None:
        self._titles = titles
        self._n_candidates = n_candidates

    def read(self, line: str) -> list[list[Entry]]:
        """Read one stripped line.

        Returns:
            One list of one entry where the line is a place of a list down the page; longer lists where it holds whole
            lists; nothing where it is prose.
        """
        readings = list(_readings(line))
        if exact := self._exact(readings):
            return exact
        words = words_of(line)
        mentions = self.mentions(line)
        chains = _chains(line, mentions)
        head = self._head(line, readings)
        if head and not (chains and chains[0][0] is mentions[0].entry):
            return [[head]]
        if chains or not words:
            return chains
        if _BULLET.match(line):
            return [[Entry("title")]]
        return [[Entry("title", certain=False)]] if len(words) <= _MAX_TITLE_WORDS and line[-1] not in ".:!?" else []

    def mentions(self, text: str) -> list[Mention]:
        """Find titles anywhere, each with the number right before it; bare numbers where there is no title."""
        found = list(WORD.finditer(text))
        words = [plain(match[0]) for match in found]
        mentions: list[Mention] = []
        at = 0
        while at < len(words):
            start, length = found[at].start(), self._titles.longest_at(words, at)
            if words[at].isdecimal() and (length == 0 or (length == 1 and self._in_range(number(words[at])))):
                mentions.append(Mention(start, found[at].end(), Entry("number", (number(words[at]),))))
            elif length:
                entry = Entry("title", (), self._titles.named(tuple(words[at : at + length])))
                if mentions and mentions[-1].end == found[at - 1].end() and mentions[-1].entry.kind == "number":
                    label = mentions[-1]
                    if not _SEPARATOR.search(text, label.end, start):
                        start, entry = label.start, Entry("label", label.entry.numbers, entry.matches)
                mentions.append(Mention(start, found[at + length - 1].end(), entry))
            at += length or 1
        return [mention for mention in mentions if mention.entry.matches] or mentions

    def _in_range(self, value: int) -> bool:
        return 1 <= value <= self._n_candidates

    def _exact(self, readings: Sequence[Reading]) -> list[list[Entry]]:
        """Read a line that is numbers, or a title, or numbers and a title, and nothing else."""
        found = [
            (Entry("label" if numbers else "title", numbers, matches), text)
            for numbers, text in readings
            if (matches := self._titles.matches(text))
        ]
        agreeing = [entry for entry, _ in found if entry.numbers and entry.numbers[-1] - 1 in entry.matches]
        if titled := agreeing or [entry for entry, text in found if not self._is_number(text)]:
            return [titled[:1]]
        numbers, text = readings[-1]
        rest = words_of(text)
        values = (*numbers, *map(number, rest)) if all(word.isdecimal() for word in rest) else ()
        return [self._numbers(values)] if values else []

    def _is_number(self, text: str) -> bool:
        words = words_of(text)
        return len(words) == 1 and words[0].isdecimal() and self._in_range(number(words[0]))

    def _numbers(self, values: Sequence[int]) -> list[Entry]:
        """Return a line's numbers: one, several in a row, or two that may be a rank and a number."""
        entries = [Entry("number", (n,), self._titles.named((str(n),))) for n in values]
        pair = len(entries) == 2 and not any(entry.matches for entry in entries)
        return [Entry("number", tuple(values))] if pair else entries

    def _head(self, line: str, readings: Sequence[Reading]) -> Entry | None:
        """Read a line that starts with a title, or with a number behind which stands something else."""
        for numbers, text in readings:
            found = list(WORD.finditer(text))
            words = [plain(match[0]) for match in found]
            length = self._titles.longest_at(words, 0) if words else 0
            if length and _TITLE_ENDS.match(text, found[length - 1].end()):
                matches = self._titles.named(tuple(words[:length]))
                return Entry("label" if numbers else "title", numbers, matches, certain=False)
        numbers, _ = readings[-1]
        return Entry("label", numbers) if numbers and _PUNCTUATED_LABEL.match(line) else None


def number(digits: str) -> int:
    """Return the value of some digits; 0, which is no candidate's number, for absurdly many."""
    return int(digits) if len(digits) <= 9 else 0  # int() refuses thousands of digits


def _readings(line: str) -> Iterator[Reading]:
    """Yield the ways to cut a line: no number, one (the label), two (a rank, then the label)."""
    numbers: tuple[int, ...] = ()
    yield numbers, line
    at = 0
    while len(numbers) < 2 and (match := _LABEL.match(line, at)):
        numbers, at = (*numbers, number(match[1])), match.end()
        yield numbers, line[at:]


def _chains(line: str, mentions: Sequence[Mention]) -> list[list[Entry]]:
    """Join mentions that only separators, or one word such as "and", keep apart; single ones are prose."""
    chains = [[mention.entry for mention in mentions[:1]]]
    for before, after in pairwise(mentions):
        between = _between(line[before.end : after.start], before.entry, after.entry)
        if between is None:
            chains.append([after.entry])
        else:
            chains[-1] += [*between, after.entry]
    return [chain for chain in chains if len(chain) > 1]


def _between(gap: str, before: Entry, after: Entry) -> list[Entry] | None:
    """Return the unknown titles between two neighbours of a chain; None where they are no neighbours."""
    gap = _BRACKETED.sub("", gap)
    if ":" in gap or "(" in gap or (before.kind == "label" and after.kind != "label"):
        return None
    first, *others = _SEPARATOR.split(gap)
    n_words = sum(len(WORD.findall(edge)) for edge in (first, *others[-1:]))
    if n_words > 1 or (n_words and re.search(r"\s[-–—]\s", gap)):
        return None
    return [Entry("title") for piece in others[:-1] if WORD.search(piece)]
