"""Run methods over cases: the same users for every method, killed or not."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from promptailor.evals.baselines.base import Method
from promptailor.evals.controls import shuffle_label
from promptailor.evals.protocol import write_cases
from promptailor.evals.records import RunFolder, UserRecord, to_record
from promptailor.evals.render import write_report
from promptailor.evals.report import EvalReport, RunInfo
from promptailor.evals.summary import summarise
from promptailor.evals.types import EvalCase
from promptailor.prompts.errors import BudgetExceededError, InputError, ModelCallError

CHUNK = 64
"""Users per call of a method: enough to fill a model's batch, few enough to lose little."""


class Progress(Protocol):
    """Told of every finished chunk."""

    def __call__(self, method: str, done: int, total: int) -> None:
        """`done` of `total` users are finished with this method."""
        ...


def evaluate(
    cases: Sequence[EvalCase],
    methods: Sequence[Method],
    controls: Sequence[Method],
    folder: Path,
    *,
    seed: int,
    info: RunInfo | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> EvalReport:
    """Evaluate methods and null controls on the same users, and write the run's folder.

    All methods do a chunk of users before any does the next, so that a run that stops early has the same users for
    every method. Users that a method was trained on are left out for all, except `info.warm_users`.

    Args:
        cases: who to rank for, and the answers; methods get the requests alone.
        methods: what the report compares; names must differ.
        controls: null methods, recorded apart unless they are among `methods`; labels are shuffled for every method
            without being asked.
        folder: where records and reports go.
        seed: keys the controls' draws and the resampling.
        info: what the report says beyond its records.
        progress: told of every finished chunk.
        resume: go on with the records that the folder holds.

    Returns:
        The report; its `incomplete` says why the run stopped early, if it did. Users that no answer was bought for are
        then missing, and the rest stands.

    Raises:
        InputError: no user is left, names clash, a ranking is no permutation, or the folder holds another run.
    """
    info = info or RunInfo()
    names = [method.name for method in methods]
    if len(set(names)) != len(names) or not names:
        raise InputError(f"methods: names must differ and there must be one at least, got {names}")
    train_users = sorted({user for method in methods for user in method.train_users})
    cases = unseen(cases, train_users, info.warm_users)
    controls = [control for control in controls if control.name not in names]
    run = RunFolder(folder, _config(cases, [*names], [c.name for c in controls], info, seed), resume=resume)
    write_cases(folder / "cases.jsonl", cases)

    stopped = _rank_all(run, _dealt(cases), methods, control=False, progress=progress)
    finished = [m.name for m in methods if any(run.get(m.name, case.user_id) for case in cases)]
    common = [case for case in cases if all(run.get(name, case.user_id) for name in finished)]
    free = [control for control in controls if not (stopped and control.llm)]
    stopped = _rank_all(run, common, free, control=True, progress=progress) or stopped

    records = {name: _records(run, name, common) for name in finished}
    null_records = {c.name: rows for c in controls if len(rows := _records(run, c.name, common)) == len(common)}
    for rows in records.values():
        shuffled = [shuffle_label(row, seed=seed) for row in rows]
        null_records[shuffled[0].method] = shuffled
    run.finish(_flat(records), _flat(null_records))
    report = summarise(
        records,
        null_records,
        info,
        seconds={name: run.seconds(name) for name in (*records, *null_records)},
        train_users=train_users,
        incomplete=stopped,
        seed=seed,
    )
    write_report(folder, report)
    return report


def unseen(cases: Sequence[EvalCase], train_users: Sequence[str], warm_users: Sequence[str]) -> list[EvalCase]:
    """Return the cases whose user no method was trained on, warm users included.

    Raises:
        InputError: nobody is left.
    """
    seen = set(train_users) - set(warm_users)
    left = [case for case in cases if case.user_id not in seen]
    if not left:
        raise InputError(
            f"users: all {len(cases)} were trained or selected on by a listed method; evaluate other users"
        )
    return left


def _dealt(cases: Sequence[EvalCase]) -> list[EvalCase]:
    """Order cases so that every slot has its turn: where a run stops early, its slots are balanced all the same."""
    turns: Counter[int | None] = Counter()
    order = []
    for place, case in enumerate(cases):
        order.append((turns[case.slot], place))
        turns[case.slot] += 1
    return [cases[place] for _, place in sorted(order)]


def _rank_all(
    run: RunFolder, cases: Sequence[EvalCase], methods: Sequence[Method], *, control: bool, progress: Progress | None
) -> str | None:
    """Have every method rank every user that it has not ranked yet; return why that stopped, or None."""
    cheapest_first = sorted(methods, key=lambda method: method.llm)
    for start in range(0, len(cases), CHUNK):
        chunk = cases[start : start + CHUNK]
        for method in cheapest_first:
            todo = [case for case in chunk if run.get(method.name, case.user_id) is None]
            try:
                for rows, seconds in _rank_chunk(method, todo):
                    run.append(rows, seconds, control=control)
            except (BudgetExceededError, ModelCallError) as error:
                return f"{method.name}: {error}"
            if progress:
                progress(method.name, start + len(chunk), len(cases))
    return None


def _rank_chunk(method: Method, cases: Sequence[EvalCase]) -> Iterator[tuple[list[UserRecord], float]]:
    """Rank some users at once; where that is stopped, one by one, up to the user that stopped it.

    The answers that were paid for before the stop are in the response store, so that asking again costs nothing.
    """
    if not cases:
        return
    try:
        yield _ranked(method, cases)
    except (BudgetExceededError, ModelCallError):
        if len(cases) == 1:
            raise
        for case in cases:
            yield _ranked(method, [case])


def _ranked(method: Method, cases: Sequence[EvalCase]) -> tuple[list[UserRecord], float]:
    started = time.perf_counter()
    answers = method.rank([case.request for case in cases])
    elapsed = time.perf_counter() - started
    if len(answers) != len(cases):
        raise InputError(f"method {method.name!r}: {len(answers)} answers to {len(cases)} requests")
    rows = [to_record(method.name, case, answer) for case, answer in zip(cases, answers, strict=True)]
    return rows, sum(answer.seconds for answer in answers) or elapsed


def _records(run: RunFolder, method: str, cases: Sequence[EvalCase]) -> list[UserRecord]:
    return [row for case in cases if (row := run.get(method, case.user_id)) is not None]


def _flat(records: dict[str, list[UserRecord]]) -> list[UserRecord]:
    return [row for rows in records.values() for row in rows]


def _config(
    cases: Sequence[EvalCase], methods: list[str], controls: list[str], info: RunInfo, seed: int
) -> dict[str, JsonValue]:
    """Return what makes two runs the same run; the budget is no part of it, so that a resumed run may have more."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(f"{case.request.model_dump_json()}\0{case.relevant_item_id}\0{case.slot}\n".encode())
    environment = info.environment
    return {
        "schema_version": 1,
        "methods": [*methods],
        "controls": [*controls],
        "cases_digest": digest.hexdigest()[:16],
        "seed": seed,
        "model": environment.model,
        "dataset": environment.dataset,
        "dataset_digest": environment.dataset_digest,
        "catalogue_digest": environment.catalogue_digest,
        "settings": environment.settings,
    }
