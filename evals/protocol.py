"""The protocol: who is a training, validation or test user, and what each is asked.

Splits hang on the data set's spec alone, negatives and slots on (seed, user_id): no global random state, and one
user's case does not depend on who else is asked. Only the target's slot does, because slots are balanced over a batch.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from promptailor.evals.candidates import CandidateSource
from promptailor.evals.datasets import Dataset
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import draw_distinct, uniform
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.errors import DataError

HoldOut = Literal["last", "second_last"]
"""The target: the last item tests; the second-to-last serves model selection and AGP's feedback."""

PLACES_FROM_END: Mapping[HoldOut, int] = {"last": 1, "second_last": 2}
MIN_INTERACTIONS = 4
"""Two held-out items and two of history; users with fewer are left out, with a count."""
TRAIN_SHARE, VALIDATION_SHARE = 0.4, 0.2

_CASE = TypeAdapter(EvalCase)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSplit:
    """Disjoint pools of user ids, each in hash order, so that the first N of a pool are a random sample of it."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    n_too_short: int = 0
    """Users in no pool, because they have fewer than `MIN_INTERACTIONS`."""
    n_cut: int = 0
    """Users in no pool, because their last interaction fell to the k-core and with it their target."""

    def __post_init__(self) -> None:
        check_disjoint(train=self.train, validation=self.validation, test=self.test)


def check_disjoint(**pools: Collection[str]) -> None:
    """Raise `DataError` where a user stands in two of the named pools, or twice in one."""
    where: dict[str, str] = {}
    for name, users in pools.items():
        for user_id in users:
            if user_id in where:
                raise DataError(f"user {user_id!r} stands in both {where[user_id]} and {name}; pools must be disjoint")
            where[user_id] = name


def split_users(dataset: Dataset) -> UserSplit:
    """Split the users 40/20/40 by a hash of user_id and the spec's `split_seed`; no run's seed can change it."""
    long_enough = [user_id for user_id, items in dataset.sequences.items() if len(items) >= MIN_INTERACTIONS]
    whole = [user_id for user_id in long_enough if user_id not in dataset.cut_users]
    draws = sorted((uniform("split", dataset.spec.split_seed, user_id), user_id) for user_id in whole)
    train_end = bisect_left(draws, (TRAIN_SHARE, ""))
    validation_end = bisect_left(draws, (TRAIN_SHARE + VALIDATION_SHARE, ""))
    users = [user_id for _, user_id in draws]
    return UserSplit(
        train=tuple(users[:train_end]),
        validation=tuple(users[train_end:validation_end]),
        test=tuple(users[validation_end:]),
        n_too_short=len(dataset.sequences) - len(long_enough),
        n_cut=len(long_enough) - len(whole),
    )


def make_cases(
    dataset: Dataset,
    user_ids: Sequence[str],
    *,
    n_candidates: int = 10,
    seed: int = 0,
    hold_out: HoldOut = "last",
    source: CandidateSource | None = None,
    retrieve: bool = False,
) -> tuple[EvalCase, ...]:
    """Make one leave-one-out case per user, in the order given.

    A case has the target and `n_candidates - 1` negatives that the user never touched, before or after; with fewer
    candidates, the negatives are the first of the longer list's. The target's slot is balanced: slots are dealt in turn
    to the users in an order drawn by (seed, user_id), so no two slots' counts differ by more than one.

    Args:
        dataset: whose users they are.
        user_ids: who is asked.
        n_candidates: items per case.
        seed: keys random negatives and the order that slots are dealt in.
        hold_out: which item is the target.
        source: offers the negatives, its best first, in place of random ones.
        retrieve: the candidates are what the source offers, in its order, without the history and with nothing added:
            a target that is not among them has no slot, and slots are not balanced.

    Returns:
        The cases; users for whom a source has too few items are left out.

    Raises:
        DataError: a user is unknown, is named twice, has too short a sequence, or has touched too many items.
    """
    places = {user_id: _length(dataset, user_id) - PLACES_FROM_END[hold_out] for user_id in user_ids}
    if short := [user_id for user_id, place in places.items() if place < 1]:
        raise DataError(f"user {short[0]!r} has no history before the target; leave out {len(short)} such user(s)")
    return _cases(dataset, user_ids, places, n_candidates, (seed, hold_out), source, retrieve)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalSplit:
    """One cut-off time for everybody: nothing that is trained on happened after anything that is tested on."""

    cutoff: float
    """In the data set's unit of time; interactions at or after it are held out."""
    training: Mapping[str, tuple[str, ...]]
    """Item ids per user before the cut-off; users with none are not in it."""
    places: Mapping[str, int]
    """Place of the target, the first interaction at or after the cut-off, in the user's sequence."""
    n_without_case: int
    """Users with nothing after the cut-off, or with too short a history before it."""


def temporal_split(dataset: Dataset, quantile: float = 0.9) -> TemporalSplit:
    """Cut the data at the time before which a share `quantile` of all interactions lies.

    Raises:
        DataError: the data set's times are not real times, or `quantile` is not between 0 and 1.
    """
    if dataset.spec.time != "global":
        raise DataError(
            f"data set {dataset.name}: a temporal split needs real times, but its spec says `time: {dataset.spec.time}`"
        )
    if not 0 < quantile < 1:
        raise DataError(f"quantile: {quantile!r} is not between 0 and 1")
    cutoff = float(np.quantile(np.concatenate([np.asarray(t) for t in dataset.times.values()]), quantile))
    before = {user_id: bisect_left(times, cutoff) for user_id, times in dataset.times.items()}
    places = {
        user_id: n for user_id, n in before.items() if MIN_INTERACTIONS - 1 <= n < len(dataset.sequences[user_id])
    }
    return TemporalSplit(
        cutoff=cutoff,
        training={user_id: dataset.sequences[user_id][:n] for user_id, n in before.items() if n},
        places=places,
        n_without_case=len(before) - len(places),
    )


def make_temporal_cases(
    dataset: Dataset, split: TemporalSplit, user_ids: Sequence[str], *, n_candidates: int = 10, seed: int = 0
) -> tuple[EvalCase, ...]:
    """Make the temporal split's case of each user, as `make_cases` does; users without one are a `DataError`."""
    if without := [user_id for user_id in user_ids if user_id not in split.places]:
        raise DataError(f"user {without[0]!r} has no case in the temporal split; leave out {len(without)} such user(s)")
    return _cases(dataset, user_ids, split.places, n_candidates, (seed, "temporal"))


def _length(dataset: Dataset, user_id: str) -> int:
    try:
        return len(dataset.sequences[user_id])
    except KeyError:
        raise DataError(f"user {user_id!r} is not in data set {dataset.name}") from None


def _cases(
    dataset: Dataset,
    user_ids: Sequence[str],
    places: Mapping[str, int],
    n_candidates: int,
    key: tuple[int, str],
    source: CandidateSource | None = None,
    retrieve: bool = False,
) -> tuple[EvalCase, ...]:
    """Make the cases whose targets stand at `places` in the users' sequences."""
    if n_candidates < 2:
        raise DataError(f"n_candidates: {n_candidates} leaves nothing to rank; give 2 or more")
    check_disjoint(user_ids=user_ids)
    pool = sorted(dataset.items)
    histories = {
        user_id: tuple(dataset.items[item_id] for item_id in dataset.sequences[user_id][: places[user_id]])
        for user_id in user_ids
    }
    listed: dict[str, list[str]] = {}
    for user_id, history in histories.items():
        if source is None:
            touched = set(dataset.sequences[user_id])
            listed[user_id] = _negatives(pool, touched, n_candidates - 1, (*key, user_id))
        else:
            barred = {item.item_id for item in history} if retrieve else set(dataset.sequences[user_id])
            offered = (item_id for item_id in source.best(user_id, history) if item_id not in barred)
            wanted = n_candidates if retrieve else n_candidates - 1
            if len(items := list(islice(offered, wanted))) == wanted:
                listed[user_id] = items
    dealt = sorted(listed, key=lambda user_id: (uniform("slot", *key, user_id), user_id))
    slots = {user_id: turn % n_candidates for turn, user_id in enumerate(dealt)}
    cases = []
    for user_id, items in listed.items():
        target = dataset.sequences[user_id][places[user_id]]
        slot: int | None = slots[user_id]
        if retrieve:
            slot = items.index(target) if target in items else None
        else:
            items.insert(slots[user_id], target)
        request = RankRequest(
            user_id=user_id,
            history=histories[user_id],
            candidates=tuple(dataset.items[item_id] for item_id in items),
            domain=dataset.domain,
            user_profile=dataset.profiles.get(user_id),
        )
        cases.append(EvalCase(request=request, relevant_item_id=target, slot=slot))
    return tuple(cases)


def _negatives(pool: Sequence[str], touched: set[str], n: int, key: tuple[str | int, ...]) -> list[str]:
    """Draw n distinct items the user never touched, in an order that is itself random."""
    if len(pool) - len(touched) < n:
        raise DataError(f"user {key[-1]!r} has touched all but {len(pool) - len(touched)} items; {n} negatives needed")
    return draw_distinct(pool, touched, n, "negative", *key)


def write_cases(path: Path, cases: Iterable[EvalCase]) -> None:
    """Write cases as JSON Lines, complete, so that a run can be repeated without the data set; never half-written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as lines:
            lines.writelines(_CASE.dump_json(case) + b"\n" for case in cases)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_cases(path: Path) -> tuple[EvalCase, ...]:
    """Read what `write_cases` wrote.

    Raises:
        DataError: the file cannot be read, a line is damaged, or its candidates are no valid case; names the line.
    """
    cases = []
    users: dict[str, int] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                case = _parse_case(line, f"{path}, line {number}")
                if (first := users.setdefault(case.user_id, number)) != number:
                    raise DataError(f"{path}, line {number}: user {case.user_id!r} already stands in line {first}")
                cases.append(case)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not cases:
        raise DataError(f"{path}: no case in it")
    return tuple(cases)


def _parse_case(line: bytes, where: str) -> EvalCase:
    try:
        case = _CASE.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {field + ': ' if field else ''}{first['msg']}") from None
    ids = [item.item_id for item in case.request.candidates]
    if len(ids) < 2:
        raise DataError(f"{where}: one candidate leaves nothing to rank")
    if case.slot is not None and not (0 <= case.slot < len(ids) and ids[case.slot] == case.relevant_item_id):
        raise DataError(f"{where}: slot {case.slot} does not hold the relevant item {case.relevant_item_id!r}")
    negatives = ids if case.slot is None else ids[: case.slot] + ids[case.slot + 1 :]
    if case.relevant_item_id in negatives:
        raise DataError(f"{where}: the relevant item {case.relevant_item_id!r} stands among the negatives")
    if twice := [item_id for item_id in ids if ids.count(item_id) > 1]:
        raise DataError(f"{where}: candidate {twice[0]!r} occurs twice")
    return case
