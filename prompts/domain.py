"""The recommender's nouns: items, requests, rankings.

Pydantic models, because they cross the JSON edge; frozen, because nodes share them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ItemId = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
"""Ids are strings inside Promptailor; whole numbers are accepted at the edge."""


MAX_TASTE_LENGTH = 2_000


class Model(BaseModel):
    """Base of the domain models: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(Model):
    """Something to recommend."""

    item_id: ItemId = Field(min_length=1)
    title: str = Field(min_length=1, max_length=200_000)
    categories: tuple[str, ...] = ()
    """Genres, brands, tags: whatever the data set calls them; empty where it has none."""
    summary: str | None = Field(None, max_length=2_000)
    """What it is like in a line; policies that ask for summaries show it behind the title (AGP)."""


class UserProfile(Model):
    """What is known of a user beside the history: demographics and taste; each may be unknown."""

    gender: str | None = None
    age: str | None = None
    occupation: str | None = None
    taste: str | None = Field(None, max_length=MAX_TASTE_LENGTH)
    """Free text: how users describe themselves, or the profile that a model wrote of them (AGP)."""

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the fields that are known."""
        return tuple(name for name in UserProfile.model_fields if getattr(self, name))


class RankRequest(Model):
    """One user's request with every id resolved: what prompts are made of. It has no ground truth."""

    user_id: ItemId = Field(min_length=1)
    history: tuple[Item, ...]
    """Oldest first; empty for a cold-start user."""
    candidates: tuple[Item, ...] = Field(min_length=1)
    """In canonical order; the prompt shows them permuted."""
    domain: str
    """Name of a word list in `prompts/catalogue/domains.yaml`."""
    user_profile: UserProfile | None = None


class RankedItem(Model):
    """One place of a ranking."""

    item_id: str
    title: str
    rank: int = Field(ge=1)
    score: float | None = None
    reason: str | None = None


RepairKind = Literal["unknown", "duplicate", "missing"]


class ParseReport(Model):
    """What had to be repaired to read an answer as a permutation of the candidates."""

    n_unknown: int = 0
    """Entries that name no candidate (invented titles, numbers out of range)."""
    n_duplicate: int = 0
    """Entries that name a candidate a second time."""
    n_missing: int = 0
    """Candidates the answer left out; appended in the order they were shown."""

    def __add__(self, other: ParseReport) -> ParseReport:
        """Return what had to be repaired in two answers together."""
        return ParseReport(
            n_unknown=self.n_unknown + other.n_unknown,
            n_duplicate=self.n_duplicate + other.n_duplicate,
            n_missing=self.n_missing + other.n_missing,
        )

    @property
    def valid(self) -> bool:
        """Whether the answer named every candidate exactly once and nothing else."""
        return not (self.n_unknown or self.n_duplicate or self.n_missing)
