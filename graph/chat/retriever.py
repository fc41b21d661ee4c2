"""The port to a catalogue, as the chat graph sees it: who chose what, which titles there are, what could be ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from promptailor.prompts.domain import Item, Model

Years = tuple[int | None, int | None]
"""First and last year, both included; None where a side is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleMention:
    """A title among some words: `words[start:stop]`."""

    start: int
    stop: int
    item: Item
    """The most chosen one where several have this title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What candidates are wanted for."""

    history: tuple[Item, ...] = ()
    """Oldest first; the user's, and what the visitor said to have liked."""
    anchors: tuple[Item, ...] = ()
    """Items that the candidates shall resemble; they count more than the history."""
    wanted: tuple[str, ...] = ()
    """Kinds of which a candidate shall have one, better all."""
    avoided: tuple[str, ...] = ()
    """Kinds of which no candidate may have one."""
    lessened: tuple[str, ...] = ()
    """Kinds of which candidates shall have as few as possible."""
    years: Years | None = None
    excluded: frozenset[str] = frozenset()
    """Item ids that must not be among the candidates, beside the history's and the anchors'."""
    text: str = ""
    """Words that may stand in a title."""
    without: tuple[str, ...] = ()
    """Folded words that no candidate's title may have."""
    n: int = 10


class Facts(Model):
    """What is known of a candidate, so that a reason can be given that is true."""

    item: Item
    year: int | None = None
    wanted: tuple[str, ...] = ()
    """Wanted kinds that it has."""
    like_anchors: tuple[str, ...] = ()
    """Titles of the anchors that were often chosen by the same people."""
    shared: tuple[str, ...] = ()
    """Kinds that it shares with all of `shared_with`."""
    shared_with: tuple[str, ...] = ()
    like_history: tuple[str, ...] = ()
    """Titles of the history that were often chosen by the same people, the closest first."""
    in_text: bool = False
    """Whether its title has words of the query's text."""
    n_users: int = Field(0, ge=0)
    """People who chose it, as far as methods may know."""
    popularity: int = Field(1, ge=1)
    """Its place in the catalogue by that number, from 1."""
    fits: bool = True
    """Whether it fulfils every wish; False for what fills up the list where too few do."""


class Retriever(Protocol):
    """A catalogue that offers candidates; it never shows what evaluation holds out."""

    @property
    def domain(self) -> str:
        """Name of the word list that its prompts use."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The catalogue's kinds, as the data set calls them."""
        ...

    @property
    def year_bounds(self) -> tuple[int, int] | None:
        """The catalogue's first and last year; None where years are not known."""
        ...

    def item(self, item_id: str) -> Item | None:
        """Return an item; None where the catalogue does not have it."""
        ...

    def history(self, user_id: str) -> tuple[Item, ...] | None:
        """Return a known user's items, oldest first, without those that are held out; None for an unknown user."""
        ...

    def mentions(self, words: Sequence[str]) -> list[TitleMention]:
        """Find the catalogue's titles among folded words, the longest at each place, from left to right."""
        ...

    def retrieve(self, query: Query) -> list[Facts]:
        """Return at most `query.n` distinct candidates, best first, what fits every wish before what does not."""
        ...

    def popular(self, n: int) -> list[Item]:
        """Return the most chosen items."""
        ...


def is_within(year: int, years: Years) -> bool:
    """Whether a year lies within some years."""
    first, last = years
    return (first is None or year >= first) and (last is None or year <= last)
