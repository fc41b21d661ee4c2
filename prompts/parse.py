"""Parsing: any answer becomes a permutation of the candidates, and a report of what had to be repaired.

Pure and total: one rule for every method, and it never sees a label.

* Nothing but distinct candidate numbers is the ranking as it stands.
* Otherwise lines are read (`prompts.entries`) and those that belong together make a list. A complete title beats the
  number before it, because models also count 1, 2, 3 where they should copy the candidate's number; between candidates
  with equal titles the number decides. Of several lists (thinking, drafts, the answer) the one that names most
  candidates counts, of equals the last. Thinking inside `<think>` tags counts only where nothing follows it.
* Where there is no list: titles, or at least two numbers, in the order the prose mentions them.

Candidates that were not named follow in the order they were shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from promptailor.prompts.assemble import clean_title
from promptailor.prompts.domain import Item, ParseReport
from promptailor.prompts.entries import Entry, LineReader, number
from promptailor.prompts.titles import TitleIndex, fold

MAX_ANSWER_LENGTH = 60_000
"""Characters read of an answer; of a longer one both ends, where lists stand. It bounds the time a runaway costs."""

_NUMBERS_ONLY = re.compile(r"[\d\s,>]*")
_DIGITS = re.compile(r"\d+")
_JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_JSON_OBJECT = re.compile(r'(?:^|[\[,:])[^\S\n]{0,99}(\{\s*"\w+"\s*:[^{}]*\})', re.MULTILINE)
_JSON_ARRAY = re.compile(r'"\w+"\s*:\s*\[|\]\s*[,}]')
_JSON_KEY = re.compile(r'"\w+"\s*:\s*(?:\d+\.\d+)?')


@dataclass(frozen=True, slots=True)
class ParsedRanking:
    """A model's ranking of the shown candidates."""

    order: tuple[int, ...]
    """Indexes into the shown candidates, best first; always a full permutation."""
    report: ParseReport


@dataclass(slots=True)
class _Ranking:
    """What a list names, in its order, and the entries that added nothing."""

    order: list[int] = field(default_factory=list)
    n_unknown: int = 0
    n_duplicate: int = 0

    def add(self, options: Sequence[int]) -> None:
        """Take an entry's first candidate that has no place yet."""
        fresh = next((index for index in options if index not in self.order), None)
        if fresh is not None:
            self.order.append(fresh)
        elif options:
            self.n_duplicate += 1
        else:
            self.n_unknown += 1

    def extend(self, other: _Ranking) -> None:
        """Continue with a list that shares no candidate with this one."""
        self.order += other.order
        self.n_unknown += other.n_unknown
        self.n_duplicate += other.n_duplicate


def parse_ranking(text: str, shown: Sequence[Item]) -> ParsedRanking:
    """Read a ranking out of a model's answer.

    Args:
        text: the answer; any string.
        shown: the candidates in the order the prompt showed them; number `n` names `shown[n - 1]`.
    """
    ranking = _bare_numbers(text, len(shown)) or _read(text, shown)
    named = set(ranking.order)
    missing = [index for index in range(len(shown)) if index not in named]
    report = ParseReport(n_unknown=ranking.n_unknown, n_duplicate=ranking.n_duplicate, n_missing=len(missing))
    return ParsedRanking(order=(*ranking.order, *missing), report=report)


def _bare_numbers(text: str, n_shown: int) -> _Ranking | None:
    """Read an answer that is nothing but distinct candidate numbers; None for any other."""
    if len(text) > MAX_ANSWER_LENGTH or not _NUMBERS_ONLY.fullmatch(text):
        return None
    numbers = [number(digits) for digits in _DIGITS.findall(text)]
    if len(set(numbers)) < len(numbers) or not all(1 <= n <= n_shown for n in numbers):
        return None
    return _Ranking([n - 1 for n in numbers])


def _read(text: str, shown: Sequence[Item]) -> _Ranking:
    """Read any answer: the best of its lists, or its prose."""
    titles = TitleIndex([clean_title(item.title) for item in shown])
    reader = LineReader(titles, len(shown))
    for part in dict.fromkeys((text.rpartition("</think>")[2], text)):
        unescaped = _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), _ends(part))
        folded = _JSON_OBJECT.sub(_object_line, fold(unescaped))
        rankings = _rankings(_blocks(folded, reader), len(shown))
        if not any(ranking.order for ranking in rankings):
            rankings = _prose(folded, reader, len(shown), numbers=not rankings) or rankings
        if rankings:
            return max(reversed(rankings), key=lambda ranking: len(ranking.order))
    return _Ranking()


def _ends(text: str) -> str:
    if len(text) <= MAX_ANSWER_LENGTH:
        return text
    return f"{text[: MAX_ANSWER_LENGTH // 2]}\n{text[-MAX_ANSWER_LENGTH // 2 :]}"


def _object_line(match: re.Match[str]) -> str:
    """Write the values of a JSON object on one line, and each array of it on its own, to be read like any other."""
    line = " ".join(match[1].split())
    return "\n" + _JSON_KEY.sub(" ", _JSON_ARRAY.sub("\n", line)) + "\n"


def _blocks(folded: str, reader: LineReader) -> Iterator[list[Entry]]:
    """Yield lists of entries of one kind; headings end one, prose and blank lines do not."""
    block: list[Entry] = []
    for line in folded.splitlines():
        line = line.strip()
        entries = reader.read(line) if line else []
        if not entries and _is_heading(line):
            yield block
            block = []
        for run in entries:
            kind = block[-1].kind if block else None
            if run[0].kind == "title" and not run[0].matches and kind != "title":
                continue  # only among titles can a line without number or known title be an invented title
            if len(run) > 1 or run[0].kind != kind:
                yield block
                block = []
            block += run
            if len(run) > 1:
                yield block
                block = []
    yield block


def _is_heading(line: str) -> bool:
    return line.startswith(("#", "```")) or line.rstrip("*_` ").endswith(":") or (line != "" and not line.strip("-=*_"))


def _rankings(blocks: Iterator[list[Entry]], n_shown: int) -> list[_Ranking]:
    """Resolve blocks; neighbours that share no candidate are parts of one list ("likely: ... less likely: ...").

    Blocks that name no candidate are thinking or remarks, and count only where no block names any.
    """
    rankings: list[_Ranking] = []
    nameless: list[_Ranking] = []
    for block in blocks:
        ranking = _Ranking()
        for options in _options(block, n_shown):
            ranking.add(options)
        if not ranking.order:
            nameless += [ranking] if ranking.n_unknown else []
        elif rankings and not set(rankings[-1].order) & set(ranking.order):
            rankings[-1].extend(ranking)
        else:
            rankings.append(ranking)
    return rankings or nameless


def _options(block: list[Entry], n_shown: int) -> Iterator[Sequence[int]]:
    """Yield the candidates each entry may mean; none where it names no candidate."""
    last = max((place for place, entry in enumerate(block) if entry.matches or entry.certain), default=-1)
    block = block[: last + 1]  # what follows the last known title is a closing remark
    ranked = _counts_ranks(block)
    for entry in block:
        numbers = entry.numbers[1:] if ranked else entry.numbers
        by_number = [n - 1 for n in numbers if 1 <= n <= n_shown]
        if entry.kind == "number":
            yield from ([n - 1] if 1 <= n <= n_shown else entry.matches for n in numbers)
        elif agreeing := [index for index in by_number if index in entry.matches]:
            yield agreeing
        elif entry.certain or ranked:
            yield entry.matches or by_number[:1]
        else:
            yield by_number[:1] or entry.matches


def _counts_ranks(block: list[Entry]) -> bool:
    """Whether the first numbers of a list are ranks (1, 2, 3, ... down the page), not the candidates' own."""
    if not block or [entry.numbers[:1] for entry in block] != [(rank,) for rank in range(1, len(block) + 1)]:
        return False
    if block[0].kind == "number":
        return len(block) > 1 and all(len(entry.numbers) == 2 for entry in block)
    agree = [entry.numbers[0] - 1 in entry.matches for entry in block if entry.matches]
    return not agree or not all(agree)


def _prose(folded: str, reader: LineReader, n_shown: int, *, numbers: bool) -> list[_Ranking]:
    """Read titles, or else at least two numbers, in the order prose mentions them; a single number may count things."""
    entries = [mention.entry for mention in reader.mentions(folded)]
    if any(entry.matches for entry in entries):
        return [_Ranking(list(dict.fromkeys(entry.matches[0] for entry in entries)))]
    order = dict.fromkeys(n - 1 for entry in entries for n in entry.numbers if 1 <= n <= n_shown)
    return [_Ranking(list(order))] if numbers and len(order) > 1 else []
