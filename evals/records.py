"""A run's folder: what was asked, what every method answered for every user, and how it survives being killed.

```
config.json        what the run is; a resumed run must be the same run
cases.jsonl        the cases, as drawn
per_user.jsonl     one line per requested method and user
controls.jsonl     the same for the null controls that were not requested
timing.jsonl       seconds per chunk: apart, so that records of two equal runs are equal bytes
unfinished.jsonl   answers for users whom an incomplete run did not finish with every method; gone when it is complete
report.json|md|html
```

While a run goes, records are appended line by line. When it ends, the two record files are rewritten in one fixed
order, so that a run that was killed and resumed leaves the same bytes as one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from promptailor.evals import metrics
from promptailor.evals.baselines.base import RankedUser
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError


class UserRecord(Model):
    """One line of `per_user.jsonl`: one method's answer for one user, scored."""

    method: str
    user_id: str
    candidates: tuple[str, ...]
    """Canonical order."""
    ranking: tuple[str, ...]
    """Best first."""
    relevant_item_id: str
    slot: int | None
    """0-based place of the relevant item in `candidates`; None where a retriever missed it."""
    shown_slot: int | None
    """The same in the order the last prompt showed; None where no prompt showed it."""
    metrics: dict[str, float]
    llm_calls: int
    invalid: bool
    rewrites: int
    rejected_rewrites: int
    prompt_digests: tuple[str, ...]
    actions: tuple[dict[str, int], ...]
    step_ranks: tuple[int | None, ...] = ()
    """1-based place of the relevant item in what each step alone would have answered; None where that lacks it.

    Nothing that was served depends on it: it is what an upper bound is computed from, after the fact.
    """


class ChunkTiming(Model):
    """One line of `timing.jsonl`."""

    method: str
    n_users: int
    seconds: float


def to_record(method: str, case: EvalCase, answer: RankedUser) -> UserRecord:
    """Score one answer.

    Raises:
        InputError: the ranking is no permutation of the candidates, or belongs to another user.
    """
    candidates = tuple(item.item_id for item in case.request.candidates)
    if answer.user_id != case.user_id or sorted(answer.ranking) != sorted(candidates):
        raise InputError(
            f"method {method!r}: `ranking` for user {case.user_id!r} is no permutation of the user's candidates;"
            " a method must return one `RankedUser` per request, in order, with every candidate exactly once"
        )
    shown = answer.shown_slots
    return UserRecord(
        method=method,
        user_id=case.user_id,
        candidates=candidates,
        ranking=answer.ranking,
        relevant_item_id=case.relevant_item_id,
        slot=case.slot,
        shown_slot=shown.index(case.relevant_item_id) if case.relevant_item_id in shown else None,
        metrics=metrics.score(answer.ranking, case.relevant_item_id),
        llm_calls=answer.llm_calls,
        invalid=answer.invalid,
        rewrites=answer.rewrites,
        rejected_rewrites=answer.rejected_rewrites,
        prompt_digests=answer.prompt_digests,
        actions=answer.actions,
        step_ranks=tuple(_place(ranking, case.relevant_item_id) for ranking in answer.step_rankings),
    )


def _place(ranking: Sequence[str], item_id: str) -> int | None:
    return ranking.index(item_id) + 1 if item_id in ranking else None


ModelT = TypeVar("ModelT", bound=Model)


def append_lines(path: Path, rows: Iterable[Model]) -> None:
    """Append rows to a JSON Lines file and hand them to the disk before returning."""
    with path.open("ab") as file:
        file.write("".join(f"{row.model_dump_json()}\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, row_type: type[ModelT]) -> list[ModelT]:
    """Read a JSON Lines file; an absent file has no rows, and a torn last line, left by a kill, is cut off the file.

    Raises:
        InputError: a finished line cannot be read; the message names file and line.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(row_type.model_validate_json(line))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InputError(f"{path}, line {number}: {reason}; delete the line to have it made again") from None
    return rows


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_lines(path: Path, rows: Iterable[Model]) -> None:
    """Write a JSON Lines file whole or not at all."""
    write_text(path, "".join(f"{row.model_dump_json()}\n" for row in rows))


class RunFolder:
    """The files of one evaluation."""

    def __init__(self, path: Path, config: dict[str, JsonValue], *, resume: bool) -> None:
        """Open a folder.

        Args:
            path: made where it is missing.
            config: what the run is; written to `config.json`, and on resume compared with it.
            resume: go on from the records in the folder; without it the folder must hold none.

        Raises:
            InputError: the folder holds another run, or a run and `resume` is off.
        """
        self.path = path
        stored = path / "config.json"
        if stored.exists():
            _check_same_run(path, json.loads(stored.read_text("utf-8")), config, resume=resume)
        path.mkdir(parents=True, exist_ok=True)
        write_text(stored, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        self._rows = {
            (row.method, row.user_id): row
            for name in ("unfinished.jsonl", "per_user.jsonl", "controls.jsonl")
            for row in read_lines(path / name, UserRecord)
        }
        self._timings = read_lines(path / "timing.jsonl", ChunkTiming)

    def get(self, method: str, user_id: str) -> UserRecord | None:
        """Return a finished record, or None."""
        return self._rows.get((method, user_id))

    def append(self, rows: Sequence[UserRecord], seconds: float, *, control: bool) -> None:
        """Keep a method's answers for a chunk of users."""
        append_lines(self.path / ("controls.jsonl" if control else "per_user.jsonl"), rows)
        timing = ChunkTiming(method=rows[0].method, n_users=len(rows), seconds=seconds)
        append_lines(self.path / "timing.jsonl", [timing])
        self._timings.append(timing)
        self._rows |= {(row.method, row.user_id): row for row in rows}

    def seconds(self, method: str) -> float:
        """Return the time a method took, over every part of a resumed run."""
        return sum(t.seconds for t in self._timings if t.method == method)

    def finish(self, records: Iterable[UserRecord], controls: Iterable[UserRecord]) -> None:
        """Rewrite the record files in their fixed order; every other record of the run goes to `unfinished.jsonl`."""
        kept, control_rows = list(records), list(controls)
        done = {(row.method, row.user_id) for row in (*kept, *control_rows)}
        unfinished = [row for key, row in self._rows.items() if key not in done]
        write_lines(self.path / "unfinished.jsonl", unfinished)
        write_lines(self.path / "per_user.jsonl", kept)
        write_lines(self.path / "controls.jsonl", control_rows)
        if not unfinished:
            (self.path / "unfinished.jsonl").unlink()


def _check_same_run(path: Path, stored: dict[str, JsonValue], config: dict[str, JsonValue], *, resume: bool) -> None:
    if not resume:
        raise InputError(f"{path} already holds a run: resume it, or write to another folder")
    now: dict[str, JsonValue] = json.loads(json.dumps(config))
    if different := sorted(key for key in stored.keys() | now.keys() if stored.get(key) != now.get(key)):
        key = different[0]
        raise InputError(
            f"{path} holds another run: its `{key}` is {stored.get(key)!r}, this run's is {now.get(key)!r};"
            " write to another folder"
        )
