"""Data sets: items, and who chose which in which order, read as a spec says.

Every interaction counts once, whatever its rating: ratings are for predicting ratings (`evals.ratings`). A user's
sequence is sorted by time with a stable sort, so **ties of time stay in file order**: leave-one-out depends on it (on
MovieLens-100K 44 % of users have a tie at the end, and breaking ties by item id instead moves popularity's NDCG@10 by
.05).
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from promptailor.evals.dataset_spec import (
    Categories,
    DatasetSpec,
    InteractionTable,
    ItemTable,
    UserTable,
    find_layout,
    is_present,
    known_datasets,
    load_spec,
)
from promptailor.evals.tables import ColumnNames, read_columns
from promptailor.prompts.domain import Item, UserProfile
from promptailor.prompts.errors import DataError

__all__ = ["Dataset", "DatasetSpec", "is_present", "known_datasets", "load_dataset", "load_spec"]

T = TypeVar("T")

_YEAR = re.compile(r"(?:^|\()((?:18|19|20)\d\d)(?:$|\))")
"""A cell that is a year, or a year in brackets within a title."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Items, and who chose which in which order."""

    spec: DatasetSpec
    """The spec, its `time` as the edition that was read has it."""
    items: Mapping[str, Item]
    """Every item that is left after the k-core: what candidates are drawn from."""
    sequences: Mapping[str, tuple[str, ...]]
    """Item ids per user, oldest first; no item twice."""
    times: Mapping[str, tuple[float, ...]]
    """The sort column, aligned with `sequences`; Unix seconds where `spec.time` is `global`."""
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What the users gave the items, aligned with `sequences`; empty where the spec names no column of ratings."""
    profiles: Mapping[str, UserProfile] = field(default_factory=dict)
    years: Mapping[str, int] = field(default_factory=dict)
    """Year of release by item id, where known."""
    layout: str = ""
    """Which edition of the files was read."""
    n_repeats: int = 0
    """Interactions that were dropped because the user had chosen the item before."""
    cut_users: frozenset[str] = frozenset()
    """Users whose very last interaction fell to the k-core: what is left of them is no leave-one-out case."""

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.spec.name

    @property
    def domain(self) -> str:
        """The catalogue domain whose words its prompts use."""
        return self.spec.domain

    @property
    def n_interactions(self) -> int:
        """Interactions of all users."""
        return sum(map(len, self.sequences.values()))

    @cached_property
    def digest(self) -> str:
        """Hex digest of the content: what was chosen when, and what prompts to rank can show of it."""
        content = {
            "sequences": self.sequences,
            "times": self.times,
            "items": {item_id: (item.title, item.categories) for item_id, item in self.items.items()},
            "years": self.years,
            "profiles": {user_id: profile.model_dump(exclude={"taste"}) for user_id, profile in self.profiles.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def training_sequences(self) -> dict[str, tuple[str, ...]]:
        """Return every user's sequence without its last two items: all that anything may be trained on."""
        return {user_id: sequence[:-2] for user_id, sequence in self.sequences.items()}


def load_dataset(spec: DatasetSpec, data_dir: Path) -> Dataset:
    """Read a data set's files, clean them, and cut them to the k-core.

    Args:
        spec: what to read and how.
        data_dir: the folder that `spec.folder` stands in.

    Raises:
        DataError: a file is missing or damaged, an item has no row or no title, or nothing survives the k-core.
    """
    layout, paths = find_layout(spec, data_dir)
    log = _read_interactions(paths[layout.interactions.file], layout.interactions)
    distinct = _drop_repeats(log)
    kept = _k_core(distinct, spec.k_core)
    if not len(kept.users):
        raise DataError(f"data set {spec.name}: no interaction is left after the {spec.k_core}-core")
    item_ids = {log.item_ids[code] for code in np.unique(kept.items)}
    items, years = _read_items(paths[layout.items.file], layout.items, spec, item_ids)
    sequences = _by_user(kept, [log.item_ids[code] for code in kept.items.tolist()])
    chosen_by_user = _by_user(distinct, [log.item_ids[code] for code in distinct.items.tolist()])
    last_choices = {user_id: chosen[-1] for user_id, chosen in chosen_by_user.items()}
    profiles = _read_profiles(paths[layout.users.file], layout.users, sequences) if layout.users else {}
    return Dataset(
        spec=spec.model_copy(update={"time": layout.time or spec.time}),
        items=items,
        sequences=sequences,
        times=_by_user(kept, kept.times.tolist()),
        ratings={} if kept.ratings is None else _by_user(kept, kept.ratings.tolist()),
        profiles=profiles,
        years=years,
        layout=layout.name,
        n_repeats=len(log.users) - len(distinct.users),
        cut_users=frozenset(user_id for user_id, chosen in sequences.items() if chosen[-1] != last_choices[user_id]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """Interactions as arrays of one length: codes of users and items, times, and ratings where there are any."""

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    ratings: npt.NDArray[np.float64] | None

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> _Log:
        return _Log(
            user_ids=self.user_ids,
            item_ids=self.item_ids,
            users=self.users[rows],
            items=self.items[rows],
            times=self.times[rows],
            ratings=None if self.ratings is None else self.ratings[rows],
        )


def _read_interactions(path: Path, table: InteractionTable) -> _Log:
    columns = [table.user_id, table.item_id, *filter(None, (table.timestamp, table.rating))]
    user_column, item_column, *others = read_columns(path, table, columns)
    if not user_column:
        raise DataError(f"{path}: no interaction in it")
    user_ids, users = _encode(user_column, path, "user_id")
    item_ids, items = _encode(item_column, path, "item_id")
    times = _floats(others.pop(0), path, "timestamp") if table.timestamp else np.arange(len(users), dtype=np.float64)
    ratings = _floats(others.pop(0), path, "rating") if table.rating else None
    return _Log(user_ids=user_ids, item_ids=item_ids, users=users, items=items, times=times, ratings=ratings)


def _encode(column: Sequence[str], path: Path, name: str) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the distinct values in order of first appearance, and each row's place among them."""
    places: dict[str, int] = {}
    codes = np.array([places.setdefault(value, len(places)) for value in column], dtype=np.int64)
    if "" in places:
        raise DataError(f"{path}, data row {column.index('') + 1}: the {name} is empty")
    return list(places), codes


def _floats(column: Sequence[str], path: Path, name: str) -> npt.NDArray[np.float64]:
    try:
        values = np.array(column, dtype=np.float64)
    except ValueError:
        values = np.array([_float(cell) for cell in column])
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DataError(f"{path}, data row {row + 1}: {name} {column[row]!r} is no number")
    return values


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return _seconds(cell)


def _seconds(cell: str) -> float:
    """Return a written time in seconds since 1970: ISO 8601, or as Goodreads writes it; NaN for other text."""
    readers: tuple[Callable[[str], datetime], ...] = (
        datetime.fromisoformat,
        lambda text: datetime.strptime(text, "%a %b %d %H:%M:%S %z %Y"),
    )
    for read in readers:
        with suppress(ValueError):
            time = read(cell)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return float("nan")


def _drop_repeats(log: _Log) -> _Log:
    """Sort by user and time, and keep a user's first interaction with each item.

    So the target of leave-one-out never stands in its own history.
    """
    order = np.argsort(log.times, kind="stable")
    by_user = log.take(order[np.argsort(log.users[order], kind="stable")])
    pairs = by_user.users * len(log.item_ids) + by_user.items
    _, first = np.unique(pairs, return_index=True)
    return by_user.take(np.sort(first))


def _k_core(log: _Log, k: int) -> _Log:
    while True:
        per_user, per_item = np.bincount(log.users, minlength=1), np.bincount(log.items, minlength=1)
        keep = (per_user[log.users] >= k) & (per_item[log.items] >= k)
        if keep.all():
            return log
        log = log.take(keep)


def _by_user(log: _Log, column: Sequence[T]) -> dict[str, tuple[T, ...]]:
    """Cut a column of `log`, which is sorted by user and time, into one tuple per user."""
    starts = np.flatnonzero(np.diff(log.users, prepend=-1)).tolist()
    return {
        log.user_ids[log.users[start]]: tuple(column[start:end])
        for start, end in zip(starts, [*starts[1:], len(column)], strict=True)
    }


def _read_items(
    path: Path, table: ItemTable, spec: DatasetSpec, item_ids: set[str]
) -> tuple[dict[str, Item], dict[str, int]]:
    """Return the wanted items in file order, and their years of release where known."""
    rules = [(re.compile(rule.pattern), rule.replacement) for rule in spec.title_cleanup]
    cells = _category_columns(table.categories)
    columns = read_columns(path, table, [table.item_id, table.title, *([table.year] if table.year else []), *cells])
    items: dict[str, Item] = {}
    years: dict[str, int] = {}
    for item_id, title, *rest in zip(*columns, strict=True):
        if item_id not in item_ids:
            continue
        if item_id in items:
            raise DataError(f"{path}: item {item_id!r} has two rows")
        text = _clean(title, rules, spec.unescape_html)
        if not text:
            raise DataError(f"{path}: the title of item {item_id!r} is empty")
        if table.year and (match := _YEAR.search(rest.pop(0)) or _YEAR.search(title.strip())):
            years[item_id] = int(match[1])
        items[item_id] = Item(
            item_id=item_id, title=text, categories=_categories(rest, table.categories, spec.unescape_html)
        )
    if missing := sorted(item_ids - items.keys()):
        raise DataError(f"{path}: no row for item {missing[0]!r} ({len(missing)} interacted item(s) have none)")
    return items, years


def _clean(title: str, rules: Sequence[tuple[re.Pattern[str], str]], unescape: bool) -> str:
    text = " ".join((html.unescape(title) if unescape else title).split())
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text.strip()


def _category_columns(categories: Categories | None) -> list[ColumnNames]:
    if categories is None:
        return []
    return [categories.column] if categories.column else [(flag,) for flag in categories.flags]


def _categories(cells: Sequence[str], categories: Categories | None, unescape: bool) -> tuple[str, ...]:
    if categories is None:
        return ()
    if categories.flags:
        return tuple(flag for flag, cell in zip(categories.flags, cells, strict=True) if cell.strip() == "1")
    parts = (part.strip() for part in cells[0].split(categories.separator))
    return tuple(html.unescape(part) if unescape else part for part in parts if part)


def _read_profiles(path: Path, table: UserTable, user_ids: Mapping[str, object]) -> dict[str, UserProfile]:
    named = {"gender": table.gender, "age": table.age, "occupation": table.occupation}
    attributes = {name: column for name, column in named.items() if column is not None}
    meanings: Mapping[str, Mapping[str, str | None]] = {str(name): values for name, values in table.values.items()}
    profiles = {}
    for user_id, *cells in zip(*read_columns(path, table, [table.user_id, *attributes.values()]), strict=True):
        if user_id in user_ids:
            known = {
                name: meanings.get(name, {}).get(cell, cell) or None
                for name, cell in zip(attributes, cells, strict=True)
            }
            profiles[user_id] = UserProfile.model_validate(known)
    return profiles
