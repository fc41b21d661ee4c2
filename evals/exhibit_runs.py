"""What exhibits read from run folders, each file once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import Field

from promptailor.evals.exhibits import Exhibit, Row, RunMethod
from promptailor.evals.protocol import read_cases
from promptailor.evals.records import UserRecord, read_lines
from promptailor.evals.report import CurvePoint, EvalReport, MethodResult, read_learning_curve, read_report
from promptailor.evals.statistics import Estimate, estimate
from promptailor.evals.types import EvalCase
from promptailor.policies.checkpoint import MANIFEST, PolicyManifest, read_manifest
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError

COSTS = ("calls", "seconds")
"""Measures that are no quality: model calls and seconds per user."""


class MeasuredFigure(Model):
    """A method's figure on one data set."""

    means: tuple[float, ...] = Field(min_length=1)
    """Over users, one per seed; over the users that every seed has, where there are several."""
    interval: Estimate | None = None
    """95 % interval over users, each averaged over the seeds; None for costs."""

    @property
    def mean(self) -> float:
        """Over users and seeds."""
        return float(np.mean(self.means))

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for one seed."""
        return float(np.std(self.means, ddof=1)) if len(self.means) > 1 else None

    @property
    def drawn(self) -> Estimate:
        """The figure with its whiskers."""
        return self.interval or Estimate(mean=self.mean, low=self.mean, high=self.mean)


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

    def records(self, method: str) -> Mapping[str, UserRecord]:
        """One method's records by user, in the order of the file; read anew each time, because they are large."""
        rows = read_lines(self.folder / "per_user.jsonl", UserRecord)
        return {row.user_id: row for row in rows if row.method == method}

    @cached_property
    def metrics(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Every measure by method and user."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for row in read_lines(self.folder / "per_user.jsonl", UserRecord):
            found.setdefault(row.method, {})[row.user_id] = row.metrics
        return found


class Runs:
    """The runs behind a page, each read once."""

    def __init__(self, base: Path | None = None) -> None:
        """Read nothing yet; `base` is the folder that the runs lie in, and is left out of their names."""
        self._base = base
        self._runs: dict[Path, Run] = {}
        self._figures: dict[tuple[tuple[RunMethod, ...], str], MeasuredFigure | None] = {}

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
        return self[run].records(run.method)

    def per_user(self, runs: Sequence[RunMethod], measure: str) -> Mapping[str, Sequence[float]]:
        """Return each user's scores, one per run, for the users that every run has.

        Raises:
            InputError: the runs have no user in common.
        """
        by_run = []
        for run in runs:
            self.result(run)
            by_run.append(self[run].metrics[run.method])
        common = [user for user in by_run[0] if all(user in scores for scores in by_run)]
        if not common:
            raise InputError(f"{runs[-1].folder}: has no user in common with {runs[0].folder}; rank for the same users")
        return {user: [scores[user][measure] for scores in by_run] for user in common}

    def figure(self, runs: tuple[RunMethod, ...], measure: str) -> MeasuredFigure | None:
        """Return a method's figure over its seeds; None where nothing was run, or a run lacks the measure."""
        key = (runs, measure)
        if key not in self._figures:
            self._figures[key] = self._figure(runs, measure)
        return self._figures[key]

    def _figure(self, runs: tuple[RunMethod, ...], measure: str) -> MeasuredFigure | None:
        results = [self.result(run) for run in runs]
        if measure in COSTS:
            totals = [result.llm_calls if measure == "calls" else result.seconds for result in results]
            costs = [total / result.n_users for total, result in zip(totals, results, strict=True)]
            return MeasuredFigure(means=tuple(costs)) if costs else None
        found = [result.measures[measure] for result in results if measure in result.measures]
        if not found or len(found) < len(results):
            return None
        if len(found) == 1:
            return MeasuredFigure(means=(found[0].mean,), interval=found[0])
        table = np.array(list(self.per_user(runs, measure).values()))
        return MeasuredFigure(
            means=tuple(table.mean(axis=0).tolist()),
            interval=estimate(table.mean(axis=1), key=("seeds", str(len(runs)), measure)),
        )

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
