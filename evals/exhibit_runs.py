"""What exhibits read from run folders, each file once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from promptailor.evals.exhibits import Exhibit, Row, RunMethod
from promptailor.evals.protocol import read_cases
from promptailor.evals.records import UserRecord, read_lines
from promptailor.evals.report import CurvePoint, EvalReport, MethodResult, read_learning_curve, read_report
from promptailor.evals.types import EvalCase
from promptailor.policies.checkpoint import MANIFEST, PolicyManifest, read_manifest
from promptailor.prompts.errors import InputError


class Run:
    """One folder that `evaluate` wrote; every file is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def report(self) -> EvalReport:
        """The findings; `InputError` where there are none."""
        return read_report(self.folder)

    @cached_property
    def cases(self) -> tuple[EvalCase, ...]:
        """The cases, as drawn."""
        return read_cases(self.folder / "cases.jsonl")

    @cached_property
    def records(self) -> Mapping[str, Mapping[str, UserRecord]]:
        """By method and user, in the order of the file."""
        found: dict[str, dict[str, UserRecord]] = {}
        for row in read_lines(self.folder / "per_user.jsonl", UserRecord):
            found.setdefault(row.method, {})[row.user_id] = row
        return found


class Runs:
    """The runs behind a page, each read once."""

    def __init__(self, base: Path | None = None) -> None:
        """Read nothing yet; `base` is the folder that the runs lie in, and is left out of their names."""
        self._base = base
        self._runs: dict[Path, Run] = {}

    def __getitem__(self, run: RunMethod) -> Run:
        """Return the run that a method belongs to."""
        return self._runs.setdefault(run.folder, Run(run.folder))

    def result(self, run: RunMethod) -> MethodResult:
        """Return a method's findings.

        Raises:
            InputError: the folder holds no run, or not this method.
        """
        methods = self[run].report.methods
        try:
            return methods[run.method]
        except KeyError:
            raise InputError(
                f"{run.folder}: has no method {run.method!r}; there are {', '.join(methods)}; evaluate it there"
            ) from None

    def records(self, run: RunMethod) -> Mapping[str, UserRecord]:
        """Return a method's records by user."""
        self.result(run)
        return self[run].records[run.method]

    def manifest(self, run: RunMethod) -> PolicyManifest | None:
        """Return what the training run says of the policy it saved; None where nothing was trained."""
        if run.training is None or not (run.training / "policy" / MANIFEST).is_file():
            return None
        return read_manifest(run.training / "policy")

    def learning_curve(self, run: RunMethod) -> tuple[CurvePoint, ...]:
        """Return the training log; empty where there is none."""
        path = run.training / "training.jsonl" if run.training else None
        if path is not None and path.is_file():
            return read_learning_curve(path)
        return self[run].report.learning_curves.get(run.method, ())

    def name(self, run: RunMethod) -> str:
        """Return what the page calls a run's folder."""
        inside = self._base is not None and run.folder.is_relative_to(self._base)
        return str(run.folder.relative_to(self._base) if inside and self._base else run.folder)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that were asked for so far."""
        return tuple(sorted(self._runs))

    @property
    def seconds(self) -> float:
        """Time of every method of those folders."""
        return sum(result.seconds for run in self._runs.values() for result in run.report.methods.values())


def datasets_of(exhibit: Exhibit) -> tuple[str, ...]:
    """Return the columns of an exhibit: its own list, or every data set that some row was run on."""
    if exhibit.datasets:
        return exhibit.datasets
    return tuple(dict.fromkeys(name for row in exhibit.rows for name in row.runs))


def ran(exhibit: Exhibit, dataset: str) -> tuple[tuple[Row, tuple[RunMethod, ...]], ...]:
    """Return the rows that were run on a data set, with their runs, one per seed."""
    return tuple((row, runs) for row in exhibit.rows if (runs := tuple(row.runs.get(dataset, ()))))
