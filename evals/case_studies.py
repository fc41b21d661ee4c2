"""Users whose ranking moved between two prompts that differ in one pattern (RPP, Figures 7 to 10).

The paper shows one success per pattern. A success alone says nothing, because a change of prompt moves rankings both
ways, so every case here comes with the number of users for whom the same kind of change helped, hurt and did nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from promptailor.evals.records import UserRecord
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Model
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue

Change = Literal["role_playing", "history_records", "reasoning_guidance", "output_format", "user_profile", "several"]
"""The one pattern in which two prompts differ, or that they differ in several."""
CHANGES: tuple[Change, ...] = (
    "role_playing",
    "history_records",
    "reasoning_guidance",
    "output_format",
    "user_profile",
    "several",
)


class Difference(Model):
    """One pattern of the two prompts, in words."""

    pattern: str
    before: str
    after: str


class CaseStudy(Model):
    """One user, ranked for with two prompts."""

    user_id: str
    before: str
    """Label of the first prompt's row."""
    after: str
    differences: tuple[Difference, ...]
    history: tuple[str, ...]
    """Titles that the longer of the two prompts showed, oldest first."""
    ranked_before: tuple[str, ...]
    """Titles, best first."""
    ranked_after: tuple[str, ...]
    rank_before: int
    """Place of the relevant item, from 1."""
    rank_after: int
    shown_before: int | None
    """1-based place of the relevant item in the list that the prompt showed."""
    shown_after: int | None


class Moves(Model):
    """What one kind of change did to all users whose prompt it changed, and the user it helped most."""

    change: Change
    n_better: int
    n_worse: int
    n_same: int
    case: CaseStudy | None
    """None where it helped nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One user's records with two methods, both of which had the relevant item to rank."""

    case: EvalCase
    labels: tuple[str, str]
    before: UserRecord
    after: UserRecord

    @property
    def ranks(self) -> tuple[int, int]:
        """Places of the relevant item, from 1."""
        item_id = self.before.relevant_item_id
        return self.before.ranking.index(item_id) + 1, self.after.ranking.index(item_id) + 1

    @property
    def gain(self) -> int:
        """Places that the relevant item rose by."""
        before, after = self.ranks
        return before - after

    @property
    def digest(self) -> str:
        """Decides between users that a change helped equally."""
        return hashlib.sha256("\0".join((self.case.user_id, *self.labels)).encode()).hexdigest()


def pairs_of(
    cases: Mapping[str, EvalCase],
    before: tuple[str, Mapping[str, UserRecord]],
    after: tuple[str, Mapping[str, UserRecord]],
) -> list[Pair]:
    """Pair the records of users whom two methods, each with its label, ranked the same candidates for.

    Users whose relevant item a retriever missed are left out: no prompt can move it.
    """
    (first, rows), (second, others) = before, after
    return [
        Pair(case=cases[user], labels=(first, second), before=row, after=other)
        for user, row in rows.items()
        if (other := others.get(user)) is not None
        and other.candidates == row.candidates
        and row.slot is not None
        and user in cases
    ]


def moves(pairs: list[Pair], catalogue: Catalogue) -> tuple[Moves, ...]:
    """Return what every kind of change did, the kinds that did not occur left out.

    Of the users that a change helped most, the one with the smallest digest is shown, so that nobody picks.
    """
    pools: dict[Change, list[tuple[Pair, tuple[Difference, ...]]]] = {change: [] for change in CHANGES}
    for pair in pairs:
        if found := _differences(pair, catalogue):
            pools[_change(pair, found)].append((pair, found))
    return tuple(_moves(change, pool) for change, pool in pools.items() if pool)


def _moves(change: Change, pool: list[tuple[Pair, tuple[Difference, ...]]]) -> Moves:
    gains = [pair.gain for pair, _ in pool]
    best, differences = min(pool, key=lambda entry: (-entry[0].gain, entry[0].digest))
    return Moves(
        change=change,
        n_better=sum(gain > 0 for gain in gains),
        n_worse=sum(gain < 0 for gain in gains),
        n_same=sum(gain == 0 for gain in gains),
        case=_case(best, differences) if max(gains) > 0 else None,
    )


def _change(pair: Pair, differences: tuple[Difference, ...]) -> Change:
    rewritten = any(row.rewrites > row.rejected_rewrites for row in (pair.before, pair.after))
    if len(differences) > 1 or rewritten:  # records do not keep rewritten sentences: more differs than they show
        return "several"
    only = differences[0].pattern
    return next(change for change in CHANGES if change == only)


def _differences(pair: Pair, catalogue: Catalogue) -> tuple[Difference, ...]:
    """Compare the last prompts of both methods; none where a method recorded no actions."""
    if not (pair.before.actions and pair.after.actions):
        return ()
    before, after = pair.before.actions[-1], pair.after.actions[-1]
    domain = pair.case.request.domain
    found = []
    for pattern in SENTENCE_PATTERNS:
        actions = before.get(pattern), after.get(pattern)
        if actions[0] != actions[1]:
            texts = [_sentence(catalogue, pattern, action, domain) for action in actions]
            found.append(Difference(pattern=pattern, before=texts[0], after=texts[1]))
    lengths = before.get("history_length"), after.get("history_length")
    if lengths[0] != lengths[1]:
        texts = [f"the last {length} of the user's history" for length in lengths]
        found.append(Difference(pattern="history_records", before=texts[0], after=texts[1]))
    fields = [_fields(catalogue, actions.get("user_profile")) for actions in (before, after)]
    if fields[0] != fields[1]:
        found.append(Difference(pattern="user_profile", before=fields[0], after=fields[1]))
    return tuple(found)


def _sentence(catalogue: Catalogue, pattern: str, action: int | None, domain: str) -> str:
    sentences = next(catalogue.sentences(name) for name in SENTENCE_PATTERNS if name == pattern)
    if action is None or not 0 <= action < len(sentences):
        return "a sentence that is not of the catalogue"
    return catalogue.fill(sentences[action], domain)


def _fields(catalogue: Catalogue, action: int | None) -> str:
    return "no field" if action is None else ", ".join(catalogue.user_profile.subsets[action]) or "no field"


def _case(pair: Pair, differences: tuple[Difference, ...]) -> CaseStudy:
    before, after = pair.before, pair.after
    request = pair.case.request
    titles = {item.item_id: item.title for item in request.candidates}
    length = max(row.actions[-1].get("history_length", 0) for row in (before, after))
    rank_before, rank_after = pair.ranks
    return CaseStudy(
        user_id=pair.case.user_id,
        before=pair.labels[0],
        after=pair.labels[1],
        differences=differences,
        history=tuple(
            item.title for item in request.history[len(request.history) - min(length, len(request.history)) :]
        ),
        ranked_before=tuple(titles[item_id] for item_id in before.ranking),
        ranked_after=tuple(titles[item_id] for item_id in after.ranking),
        rank_before=rank_before,
        rank_after=rank_after,
        shown_before=None if before.shown_slot is None else before.shown_slot + 1,
        shown_after=None if after.shown_slot is None else after.shown_slot + 1,
    )
