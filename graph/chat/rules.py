"""Reading a message by rules: cues open parts of a sentence, and what follows them is wanted, avoided, liked, ...

No model is asked. A clause ends at punctuation and before words such as "but"; within it the last cue decides. Kinds,
titles and places of the last list are found as the longest phrase at each word; all phrases stand in `chat.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from promptailor.graph.chat.retriever import Retriever, TitleMention, Years
from promptailor.graph.chat.state import Understood
from promptailor.prompts.assemble import clean_text, clean_title
from promptailor.prompts.chat import MAX_MESSAGE_LENGTH, Act, ChatWords, Cue, Phrases, SpokenAct, tokens
from promptailor.prompts.titles import Words

T = TypeVar("T")

CLASSIC_UNTIL = 1970
"""Last year of what is called old."""
RECENT_YEARS = 3
"""How many of the catalogue's last years are called recent."""
MOST_ANCHORS = 3
"""Of a whole list that more is wanted like."""

_YEAR = re.compile(r"((?:18|19|20)\d\d)(s|['’]s)?(?!\w)")
_SHORT_DECADE = re.compile(r"(\d0)['’]?s(?!\w)")
_THIS_CENTURY = 30
"""Two-digit decades below it are this century's."""
_SENTENCE_END = re.compile(r"[.!?\n]")
_CLAUSE_END = re.compile(r"[,;:()—–]")
_QUOTES = '"“”„«»'
_QUOTED = re.compile(rf"[{_QUOTES}]([^{_QUOTES}]{{2,80}})[{_QUOTES}]")
_SPOKEN_FIRST: tuple[SpokenAct, ...] = ("reset", "why", "describe")
"""Acts that count although kinds or titles stand beside them."""
_PRECEDENCE: tuple[SpokenAct, ...] = (*_SPOKEN_FIRST, "more", "recommend", "help", "goodbye", "thanks", "greeting")
_SMALL_TALK: tuple[SpokenAct, ...] = ("thanks", "greeting", "goodbye")
"""Acts that count only where a message says nothing else."""
_CHANGES: tuple[Cue, ...] = ("avoid", "less", "more", "disliked", "seen")
"""Cues that, at the beginning, change the wishes so far."""
_TITLE_CUES: tuple[Cue, ...] = ("like", "liked", "disliked", "seen", "avoid")


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    start: int
    end: int
    opens: bool
    """Whether a clause begins here."""
    anew: bool
    """Whether a sentence, or what follows a word such as "but", begins here."""


@dataclass(slots=True)
class _Found:
    """What was found so far."""

    kinds: dict[Cue, list[str]] = field(default_factory=dict)
    items: dict[Cue, list[str]] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    place: int | None = None
    """A place that no cue stands before."""
    missing_place: bool = False
    more_of_all: bool = False

    def kinds_of(self, *cues: Cue) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kind for cue in cues for kind in self.kinds.get(cue, ())))

    def items_of(self, *cues: Cue) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item for cue in cues for item in self.items.get(cue, ())))


@dataclass(frozen=True)
class ChatRules:
    """Rules over one catalogue's titles and kinds."""

    words: ChatWords
    retriever: Retriever

    def read(self, message: str, shown: Sequence[str] = ()) -> Understood:
        """Read one message.

        Args:
            message: any text, at any length.
            shown: item ids of the last list, best first, which "the second one" may mean.
        """
        text = clean_text(message, MAX_MESSAGE_LENGTH)
        said = self._tokens(text)
        mentions = {m.start: m for m in self.retriever.mentions([token.word for token in said])}
        found = self._walk(text, said, mentions, shown)
        wanted = found.kinds_of("want", "more", "like", "liked")
        understood = Understood(
            wanted=wanted,
            avoided=tuple(kind for kind in found.kinds_of("avoid", "disliked", "seen") if kind not in wanted),
            lessened=tuple(kind for kind in found.kinds_of("less") if kind not in wanted),
            years=self._years(text, said, mentions),
            anchors=found.items_of("want", "more", "like"),
            liked=found.items_of("liked"),
            disliked=found.items_of("avoid", "disliked", "less"),
            seen=found.items_of("seen"),
            missing_place=found.missing_place,
            unknown=() if found.items else self._unknown(text, said),
            text=" ".join(word for word in found.rest if not self._is_filler(word)),
            without=tuple(dict.fromkeys(word for word in found.without if not self._is_filler(word))),
            cut=len(message) > MAX_MESSAGE_LENGTH,
        )
        act = self._act(said, found, understood, shown)
        named = next((shown.index(item) + 1 for item in understood.anchors if item in shown), None)
        place = (found.place or named) if act == "why" else None
        return understood.model_copy(update={"act": act, "place": place})

    def kinds_named(self, name: str) -> tuple[str, ...]:
        """Return the catalogue's kinds that a phrase names; none where it names none."""
        return self._kinds.get(tuple(word for word, _, _ in tokens(name)), ())

    def _act(self, said: Sequence[_Token], found: _Found, understood: Understood, shown: Sequence[str]) -> Act:
        spoken = self._spoken(said)
        if spoken in _SPOKEN_FIRST:
            return spoken
        if found.more_of_all:
            return "more"
        if (found.place or found.missing_place) and not understood.says_something:
            return "why"
        has_more = any(_longest(self._cues, said, place)[0] == "more" for place in range(len(said)))
        if understood.says_something or understood.unknown:
            opening = _longest(self._cues, said, 0)[0]
            goes_on = opening in _CHANGES or bool(said and _longest_in(self._refinements, said, 0))
            asks_anew = bool(understood.wanted or understood.anchors or understood.unknown or understood.years)
            return "refine" if shown and (goes_on or not asks_anew) else "recommend"
        if spoken and not (spoken in _SMALL_TALK and understood.text):
            return spoken
        if has_more and shown:
            return "more"
        return "unclear" if understood.text or not said else "recommend"

    def _spoken(self, said: Sequence[_Token]) -> SpokenAct | None:
        """Return the act whose phrase opens a clause, where no longer cue does."""
        acts = set()
        for place, token in enumerate(said):
            if token.opens:
                act, length = _longest(self.words.act_phrases, said, place)
                if act and length >= _longest(self._cues, said, place)[1]:
                    acts.add(act)
        return next((act for act in _PRECEDENCE if act in acts), None)

    def _tokens(self, text: str) -> list[_Token]:
        said: list[_Token] = []
        end = 0
        for word, start, stop in tokens(text):
            anew = not said or (word,) in self._breaks or _SENTENCE_END.search(text, end, start) is not None
            opens = anew or _CLAUSE_END.search(text, end, start) is not None
            said.append(_Token(word, start, stop, opens, anew))
            end = stop
        return said

    def _walk(
        self, text: str, said: Sequence[_Token], mentions: Mapping[int, TitleMention], shown: Sequence[str]
    ) -> _Found:
        found = _Found()
        cue: Cue | None = None
        at = cue_end = 0
        while at < len(said):
            if said[at].opens and (cue == "less" or not self._carries_on(said, mentions, at)):
                cue, cue_end = None, at
            named_cue, n_cue = _longest(self._cues, said, at)
            kinds, n_kinds = _longest(self._kinds, said, at)
            mention = mentions.get(at)
            n_title = mention.stop - at if mention else 0
            if mention and n_title >= n_kinds and self._is_title(text, said, mention, cue, cue_end):
                found.items.setdefault(cue or "want", []).append(mention.item.item_id)
                step = n_title
            elif (places := self._places(text, said, at, shown, cue)) and places[1] >= n_cue:
                self._point(found, cue, places[0], shown)
                step = places[1]
            elif named_cue and n_cue >= n_kinds:
                # "no more violence" avoids, "not like Heat" does as well
                cue = "avoid" if cue == "avoid" and named_cue in ("more", "like", "want") else named_cue
                cue_end, step = at + n_cue, n_cue
            elif kinds:
                found.kinds.setdefault(cue or "want", []).extend(kinds)
                step = n_kinds
            else:
                (found.without if cue in ("avoid", "disliked") else found.rest).append(said[at].word)
                step = 1
            at += step
        return found

    def _is_filler(self, word: str) -> bool:
        """Whether a word says nothing about titles: a filler, or a part of a year."""
        return (word,) in self._fillers or (word,) in self._year_words or word[:1].isdecimal()

    def _carries_on(self, said: Sequence[_Token], mentions: Mapping[int, TitleMention], at: int) -> bool:
        """Whether a clause only goes on with a list, as in "no horror, war or crime", so that its cue still holds."""
        if said[at].anew:
            return False
        n_listed, start = 0, at
        while at < len(said) and (at == start or not said[at].opens):
            _, length = _longest(self._kinds, said, at)
            if mention := mentions.get(at):
                length = max(length, mention.stop - at)
            length = length or said[at].word.isdecimal()
            if not length and not {(said[at].word,)} & (self._conjunctions | self._fillers):
                return False
            n_listed += bool(length)
            at += length or 1
        return n_listed > 0

    def _is_title(
        self, text: str, said: Sequence[_Token], mention: TitleMention, cue: Cue | None, cue_end: int
    ) -> bool:
        """Whether words that could be a title are one here: in quotes, several, right behind a cue, or in capitals."""
        first, last = said[mention.start], said[mention.stop - 1]
        if first.start and text[first.start - 1] in _QUOTES and text[last.end : last.end + 1] in _QUOTES:
            return True
        phrase = tuple(token.word for token in said[mention.start : mention.stop])
        capital = text[first.start].isupper() and (not first.opens or (cue in _TITLE_CUES and not first.anew))
        common = (
            all((word,) in self._fillers for word in phrase)
            or phrase in self._kinds
            or phrase in self._cues
            or phrase in self.words.place_phrases
        )
        if common or phrase in self.words.act_phrases:
            return capital and cue in _TITLE_CUES
        if len(phrase) > 1 or len(said) == 1:
            return True
        if phrase[0].isdecimal():
            return False
        return capital or (cue in _TITLE_CUES and mention.start - cue_end <= 1 and len(phrase[0]) > 2)

    def _places(
        self, text: str, said: Sequence[_Token], at: int, shown: Sequence[str], cue: Cue | None
    ) -> tuple[tuple[int, ...], int] | None:
        """Return the places of the last list that are named here, from 1, and by how many words."""
        if not shown:
            return None
        if length := _longest_in(self._all_places, said, at):
            return tuple(range(1, len(shown) + 1)), length
        n_number = _longest_in(self._numbers, said, at)
        bare = text[: said[at].start].endswith("#") or cue in _TITLE_CUES
        if (n_number or bare) and at + n_number < len(said):
            number = said[at + n_number].word
            if number.isdecimal() and len(number) <= 2:
                return (int(number),), n_number + 1
        place, length = _longest(self.words.place_phrases, said, at)
        if place is not None:
            count, n_count = _longest(self.words.counts_by_words, said, at + length)
            return (tuple(range(1, count + 1)), length + n_count) if place == 1 and count else ((place,), length)
        length = _longest_in(self._pronouns, said, at)
        ends = at + length == len(said) or said[at + length].opens
        return ((1,), length) if length and ends else None

    def _point(self, found: _Found, cue: Cue | None, places: tuple[int, ...], shown: Sequence[str]) -> None:
        """Note places of the last list; of a whole list that more is wanted like, the best."""
        indices = [place - 1 if place > 0 else len(shown) + place for place in places]
        items = [shown[index] for index in indices if 0 <= index < len(shown)]
        if not items:
            found.missing_place = True
        elif cue is None or cue == "want":
            found.place = indices[0] + 1
        else:
            all_of_them = len(places) == len(shown)
            found.more_of_all |= all_of_them and cue in ("like", "more")
            found.items.setdefault(cue, []).extend(items[:MOST_ANCHORS] if cue in ("like", "more") else items)

    def _years(self, text: str, said: Sequence[_Token], mentions: Mapping[int, TitleMention]) -> Years | None:
        """Return the years that are named: decades, single years, before and after, old and recent."""
        in_titles = {place for m in mentions.values() if m.stop - m.start > 1 for place in range(m.start, m.stop)}
        named: list[tuple[int, int, int]] = []
        for place, token in enumerate(said):
            if place in in_titles:
                continue
            if match := _YEAR.match(text, token.start):
                first = int(match[1])
                named.append((place, first, first + 9 if match[2] else first))
            elif match := _SHORT_DECADE.match(text, token.start):
                first = int(match[1]) + (2000 if int(match[1]) < _THIS_CENTURY else 1900)
                named.append((place, first, first + 9))
            elif decade := self.words.decades.get(token.word):
                named.append((place, decade, decade + 9))
        if not named:
            return self._age(said)
        (place, first, last), others = named[0], named[1:]
        if others and others[0][0] == place + 2:  # "1980 to 1990"
            return min(first, others[0][1]), max(last, others[0][2])
        if self._stands_before(said, place, self.words.years.before):
            return None, first - 1
        if self._stands_before(said, place, self.words.years.until):
            return None, last
        if self._stands_before(said, place, self.words.years.after):
            return first, None
        return first, last

    def _age(self, said: Sequence[_Token]) -> Years | None:
        bounds = self.retriever.year_bounds
        if bounds is None:
            return None
        recent, classic = (self.words.phrases(p) for p in (self.words.years.recent, self.words.years.classic))
        if any(_longest_in(recent, said, place) for place in range(len(said))):
            return bounds[1] - RECENT_YEARS + 1, None
        if any(_longest_in(classic, said, place) for place in range(len(said))):
            return None, CLASSIC_UNTIL
        return None

    def _stands_before(self, said: Sequence[_Token], place: int, phrases: Phrases) -> bool:
        """Whether one of the phrases stands before a word, at most one word between them ("before the 80s")."""
        return any(
            start >= 0 and tuple(token.word for token in said[start : start + len(phrase)]) == phrase
            for phrase in self.words.phrases(phrases)
            for start in (place - len(phrase), place - len(phrase) - 1)
        )

    def _unknown(self, text: str, said: Sequence[_Token]) -> tuple[str, ...]:
        """Return what stands in quotes, or in capitals behind "like", and is no title of the catalogue."""
        if quoted := _QUOTED.findall(text):
            return tuple(dict.fromkeys(title for title in map(clean_title, quoted) if title))
        for place in range(len(said)):
            cue, length = _longest(self._cues, said, place)
            start = place + length
            if cue not in ("like", "liked") or start >= len(said) or said[start].opens:
                continue
            if not text[said[start].start].isupper():
                continue
            stop = next((n for n in range(start + 1, len(said)) if said[n].opens), len(said))
            if not any(_longest(self._kinds, said, n)[1] for n in range(start, stop)):
                return (clean_title(text[said[start].start : said[stop - 1].end]),)
        return ()

    @cached_property
    def _kinds(self) -> Mapping[Words, tuple[str, ...]]:
        return self.words.kind_phrases(self.retriever.kinds)

    @cached_property
    def _cues(self) -> Mapping[Words, Cue]:
        return self.words.cue_phrases

    @cached_property
    def _conjunctions(self) -> frozenset[Words]:
        return self.words.phrases(self.words.conjunctions)

    @cached_property
    def _breaks(self) -> frozenset[Words]:
        return self.words.phrases(self.words.breaks)

    @cached_property
    def _fillers(self) -> frozenset[Words]:
        return self.words.phrases(self.words.fillers)

    @cached_property
    def _year_words(self) -> frozenset[Words]:
        years = self.words.years
        return self.words.phrases(
            (*years.before, *years.until, *years.after, *years.recent, *years.classic, *self.words.decades)
        )

    @cached_property
    def _all_places(self) -> frozenset[Words]:
        return self.words.phrases(self.words.all_places)

    @cached_property
    def _pronouns(self) -> frozenset[Words]:
        return self.words.phrases(self.words.pronouns)

    @cached_property
    def _numbers(self) -> frozenset[Words]:
        return self.words.phrases(self.words.numbers)

    @cached_property
    def _refinements(self) -> frozenset[Words]:
        return self.words.phrases(self.words.refinements)


def _longest(phrases: Mapping[Words, T], said: Sequence[_Token], at: int) -> tuple[T | None, int]:
    """Return what the longest phrase at a word means, and how many words it has; None and 0 where there is none."""
    for length in range(min(_MOST_WORDS, len(said) - at), 0, -1):
        phrase = tuple(token.word for token in said[at : at + length])
        if phrase in phrases:
            return phrases[phrase], length
    return None, 0


def _longest_in(phrases: frozenset[Words], said: Sequence[_Token], at: int) -> int:
    """Return how many words the longest phrase at a word has; 0 where there is none."""
    lengths = range(min(_MOST_WORDS, len(said) - at), 0, -1)
    return next((n for n in lengths if tuple(token.word for token in said[at : at + n]) in phrases), 0)


_MOST_WORDS = 7
"""In a phrase."""
