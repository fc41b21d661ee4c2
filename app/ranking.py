"""`promptailor rank`: a file of requests in, a file of answers out, in input order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError
from rich.console import Console, ConsoleOptions, RenderResult

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.store import ResponseStore
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.serving import policy_context, serving_graph
from promptailor.app.settings import Settings
from promptailor.graph.rollout import run_batch
from promptailor.graph.state import RankInput, RankOutput
from promptailor.prompts.errors import DataError, InputError, MissingExtraError
from promptailor.prompts.patterns import load_catalogue

CHUNK = 512
"""Requests in memory at once, so that memory stays flat in the number of users served."""
MAX_STEPS = 50


class RankSummary(BaseModel):
    """What `rank` did."""

    output: Path
    requests: int
    llm_calls: int
    invalid: int
    """Answers that had to be repaired."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in one line."""
        yield f"{self.requests:,} answers in {self.output}: {self.llm_calls:,} calls, {self.invalid:,} repaired"


def rank_file(
    input_file: Path,
    output: Path,
    *,
    policy: str,
    model: str,
    refiner: str | None,
    dataset: str | None,
    seed: int,
    permutations: int | None,
    budget: str | None,
    catalogue: Path | None,
) -> RankSummary:
    """Rank every request of a file; the output appears whole or not at all.

    Answers are kept in a file beside the output until it is complete, so that a run that was killed is gone on with by
    the same command, and memory does not grow with the number of requests.

    Raises:
        InputError: a line is no request; the message names the line and the field.
    """
    store = ResponseStore(output.with_name(output.name + ".answers.sqlite"), in_threads=False)
    cap = Budget.parse(budget, used=store.spending)
    graph = serving_graph(
        Settings(),
        model=model,
        refiner=refiner,
        policies=policy,
        dataset=dataset,
        catalogue=load_catalogue(catalogue),
        store=store,
        budget=cap,
    )
    context = policy_context(policy, refiner=refiner, seed=seed, permutations=permutations)
    summary = RankSummary(output=output, requests=0, llm_calls=0, invalid=0)
    partial = output.with_name(output.name + ".partial")
    try:
        with stop_on_interrupt(cap), partial.open("w", encoding="utf-8") as file:
            for requests in _chunks(read_requests(input_file)):
                for result in run_batch(graph, requests, context, n_steps=MAX_STEPS):
                    answer = RankOutput.model_validate(result)
                    file.write(answer.model_dump_json() + "\n")
                    summary.requests += 1
                    summary.llm_calls += answer.llm_calls
                    summary.invalid += not answer.parse.valid
        os.replace(partial, output)
    except OSError as error:
        raise InputError(f"--output {output}: {error.strerror}; free some space or name another file") from None
    finally:
        partial.unlink(missing_ok=True)
        if not store.requests:  # nothing was paid for, so there is nothing to keep
            store.delete()
    store.delete()
    return summary


def read_requests(path: Path) -> Iterator[RankInput]:
    """Read requests from JSON Lines or Parquet."""
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    for number, row in rows:
        try:
            yield RankInput.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"][:2])
            raise DataError(f"{path}, line {number}: {field}: {first['msg']}") from None


def _json_rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: not JSON ({error.msg}); write one object per line"
                    ) from None
    except OSError as error:
        raise DataError(f"--input {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"--input {path}: not UTF-8; convert the file first") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        from pyarrow import ArrowException  # noqa: PLC0415 - optional extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("reading Parquet", "baselines") from None
    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=CHUNK):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: value for name, value in row.items() if value is not None}
    except (OSError, ArrowException) as error:
        raise DataError(f"--input {path}: {str(error).splitlines()[0]}") from None


def _chunks(requests: Iterator[RankInput]) -> Iterator[list[RankInput]]:
    chunk: list[RankInput] = []
    for request in requests:
        chunk.append(request)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
