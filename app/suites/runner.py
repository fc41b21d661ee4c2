"""`promptailor ablate`: make the runs of a suite that are missing, each once, whatever fails on the way.

Runs on one data set share a library of answers and embeddings, so that no prompt is paid for or computed twice; each
run's own cost stays its own. Killed or stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.store import STORE_FILE, ResponseStore
from promptailor.app.commit import current_commit
from promptailor.app.evaluation import Evaluation as Outcome
from promptailor.app.evaluation import run_evaluation
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.run_folder import CONFIG, POLICY
from promptailor.app.sentences.admit import admit_sentences
from promptailor.app.sentences.folder import CATALOGUE
from promptailor.app.sentences.propose import propose_sentences
from promptailor.app.sentences.rank import rank_sentences
from promptailor.app.settings import Settings
from promptailor.app.suites.ledger import Entry, Ledger, RowCost, read_ledger, write_entry
from promptailor.app.suites.plan import (
    Evaluation,
    Extending,
    Plan,
    PlannedRow,
    Run,
    Training,
    dataset_name,
    make_plan,
    shipped_model,
)
from promptailor.app.suites.summary import AblateSummary, Missing, PlanSummary
from promptailor.app.training import run_training_job
from promptailor.app.wiring import Workspace
from promptailor.evals.page import DatasetSize
from promptailor.evals.report import EvalReport
from promptailor.policies.checkpoint import MANIFEST
from promptailor.prompts.errors import BudgetExceededError, InputError, PromptailorError, RunInterruptedError, SpecError

LIBRARY = "library"
"""Folder of the answers that a data set's runs share."""
REPORT = "report.json"
"""Of a finished evaluation."""
_PROBED_USERS = "2"
"""Users that a row is tried on alone, to find out which of a group's rows fails."""


def run_suite(run: Run, *, budget: str | None = None) -> AblateSummary:
    """Make the runs of a suite that are missing.

    Args:
        run: the suite, and what it is run on.
        budget: of all its runs on the data set together, those of earlier processes included.

    Raises:
        InputError: unknown names, or a folder that holds another suite.
        RunInterruptedError: the user stopped it; the same command goes on.
    """
    plan, ledger = _prepare(run)
    folder = run.folder
    library = ResponseStore(folder / LIBRARY / STORE_FILE)
    cap = Budget.parse(budget, used=library.spending)
    runner = _Runner(plan=plan, ledger=ledger, library=library, budget=cap, commit=current_commit())
    try:
        with stop_on_interrupt(cap):
            return runner.run()
    finally:
        library.close()


def describe(run: Run) -> PlanSummary:
    """Say which runs of a suite are missing, and make none."""
    plan, ledger = _prepare(run)
    trainings = [t for t in plan.trainings if not _trained(run.folder, ledger, t)]
    evaluations = [e for e in plan.evaluations if not _evaluated(run.folder, ledger, e)]
    return PlanSummary(
        folder=run.folder,
        trainings=tuple(
            f"{t.id}  {t.config.model_dump(exclude_defaults=True, exclude={'policy', 'dataset', 'model'})}"
            for t in trainings
        ),
        evaluations=tuple(f"{e.id}  {', '.join(row.row.label for row in e.rows)}" for e in evaluations),
        kept=len(plan.trainings) + len(plan.evaluations) - len(trainings) - len(evaluations),
        skipped=plan.skipped,
        training_calls=sum(t.config.calls for t in trainings),
        evaluation_calls=sum(int(e.config.users) * row.calls_per_user for e in evaluations for row in e.rows),
    )


def _prepare(run: Run) -> tuple[Plan, Ledger]:
    slots = {slot for group in run.suite.groups for slot in group.models}
    if unknown := [slot for slot in run.models if slot not in slots]:
        raise InputError(f"--models {unknown[0]}=...: no slot of {run.suite.name}; there are {', '.join(slots)}")
    workspace = Workspace(settings=Settings(), dataset_name=run.dataset, model=run.model)
    dataset, name = workspace.dataset, dataset_name(run.dataset)
    ledger = read_ledger(run.folder) or Ledger(
        suite=run.suite.name,
        dataset=name,
        model=None if run.model == shipped_model(name) else run.model,
        size=DatasetSize(
            name=name,
            n_users=len(dataset.sequences),
            n_items=len(dataset.items),
            n_interactions=sum(map(len, dataset.sequences.values())),
        ),
    )
    if ledger.suite != run.suite.name:
        raise InputError(f"--out {run.out}: holds the suite {ledger.suite!r}; name another folder")
    return make_plan(run, workspace.split), ledger


@dataclass(kw_only=True)
class _Runner:
    """The runs of one process, one after another."""

    plan: Plan
    ledger: Ledger
    library: ResponseStore
    budget: Budget
    commit: str | None

    def __post_init__(self) -> None:
        self.folder = self.plan.run.folder
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.missing: list[Missing] = []
        self.trained = self.evaluated = self.kept = 0

    def run(self) -> AblateSummary:
        """Train and evaluate, group by group, so that what is stopped early has finished the most important ones."""
        failed: dict[str, str] = {}
        seen: set[str] = set()
        try:
            for evaluation in self.plan.evaluations:
                for training in (row.training for row in evaluation.rows):
                    if training and training.id not in seen:
                        seen.add(training.id)
                        if reason := self._train(training):
                            failed[training.id] = reason
                self._evaluate(evaluation, failed)
        except RunInterruptedError:
            raise
        except BudgetExceededError as error:
            self._lack("what is left", str(error))
        return AblateSummary(
            folder=self.folder,
            suite=self.plan.run.suite.name,
            dataset=self.ledger.dataset,
            trained=self.trained,
            evaluated=self.evaluated,
            kept=self.kept,
            missing=tuple(self.missing),
            skipped=self.plan.skipped,
            seconds=self.ledger.seconds,
            requests=self.ledger.requests,
        )

    def _train(self, training: Training) -> str | None:
        """Learn a policy where it is not there yet; return why that failed, or None."""
        if _trained(self.folder, self.ledger, training):
            self.kept += 1
            return None
        if training.extending and (reason := self._extend(training.extending)):
            return reason
        entry = self._entry(training.id, digest=training.digest, seed=training.config.seed)

        def work() -> Entry:
            out = self.folder / training.id
            summary = run_training_job(training.config, out, resume=True, budget=self.budget, library=self.library)
            if summary.stopped == "interrupted":
                raise RunInterruptedError(f"stopped while learning {training.id}; the same command goes on")
            if summary.stopped == "budget":
                raise BudgetExceededError(f"the budget was spent while learning {training.id}; raise it to go on")
            return entry.model_copy(update={"status": "done", "requests": summary.llm_requests})

        done = self._timed(training.id, entry, work)
        if done.status == "missing":
            self._lack(training.id, str(done.reason))
        self.trained += done.status == "done"
        return done.reason

    def _extend(self, extending: Extending) -> str | None:
        """Extend a catalogue where that is not done yet; return why it failed, or None."""
        if _there(self.folder, self.ledger, extending.id, extending.digest, CATALOGUE):
            return None
        entry = self._entry(extending.id, digest=extending.digest, seed=extending.propose.seed)

        def work() -> Entry:
            out, budget, library = self.folder / extending.id, self.budget, self.library
            proposed = propose_sentences(extending.propose, out, resume=True, budget=budget, library=library)
            if proposed.stopped != "finished":
                raise BudgetExceededError(self.budget.stopped or f"the budget was spent while making {extending.id}")
            if proposed.proposals:
                with suppress(SpecError):  # a model that shows no gradients has its proposals tried as they came
                    rank_sentences(out, budget=budget)
            summary = admit_sentences(out, extending.admit, budget=budget, library=library)
            if summary.extension.stopped != "finished":
                raise BudgetExceededError(self.budget.stopped or f"the budget was spent while making {extending.id}")
            return entry.model_copy(update={"status": "done", "requests": summary.spent.calls})

        done = self._timed(extending.id, entry, work)
        return done.reason

    def _evaluate(self, evaluation: Evaluation, failed: Mapping[str, str]) -> None:
        """Evaluate a group's rows where that is not done yet, but for those whose training `failed`."""
        if _evaluated(self.folder, self.ledger, evaluation):
            self.kept += 1
            return
        before = self.ledger.entries.get(evaluation.id)
        missing = {
            row.row.label: failed[row.training.id]
            for row in evaluation.rows
            if row.training and row.training.id in failed
        }
        suspects = set(before.missing if before else ()) - set(missing)
        entry = self._entry(
            evaluation.id,
            digest=evaluation.digest,
            group=evaluation.group.id,
            point=evaluation.point,
            seed=evaluation.seed,
            missing=before.missing if before else {},
        )

        def work() -> Entry:
            # What failed before is tried alone first, so that the records of the others need not be made again.
            missing.update(self._failures(evaluation, [r for r in evaluation.rows if r.row.label in suspects]))
            while rows := tuple(row for row in evaluation.rows if row.row.label not in missing):
                try:
                    outcome = self._outcome(evaluation, rows)
                    break
                except BudgetExceededError:
                    raise
                except PromptailorError as error:
                    missing.update(self._failures(evaluation, rows) or {r.row.label: str(error) for r in rows})
            else:
                return entry.model_copy(update={"status": "missing", "reason": "every row failed", "missing": missing})
            incomplete = outcome.report.incomplete
            if incomplete and self.budget.stopped:
                raise RunInterruptedError(self.budget.stopped)
            return entry.model_copy(
                update={
                    "status": "missing" if incomplete or missing else "done",
                    "reason": incomplete,
                    "requests": outcome.spent.calls,
                    "missing": missing,
                    "rows": _costs(rows, outcome.report),
                }
            )

        done = self._timed(evaluation.id, entry, work)
        for label, reason in done.missing.items():
            self._lack(f"{evaluation.id}, {label}", reason)
        if done.reason and not done.missing:
            self._lack(evaluation.id, done.reason)
        self.evaluated += done.status == "done"
        for label, cost in done.rows.items():
            self._say(f"          {label}: {cost.seconds:,.0f} s, {cost.llm_calls:,} calls")

    def _outcome(self, evaluation: Evaluation, rows: tuple[PlannedRow, ...]) -> Outcome:
        """Evaluate rows; a folder that holds other rows, users or settings is emptied, its answers are kept."""
        out, config = self.folder / evaluation.id, evaluation.config_of(rows)
        held = (out / CONFIG).is_file()
        try:
            return run_evaluation(config, out, resume=True, budget=self.budget, library=self.library)
        except InputError:
            if not held:
                raise
            for path in out.iterdir():
                if path.is_file() and not path.name.startswith(STORE_FILE):
                    path.unlink()
            return run_evaluation(config, out, resume=True, budget=self.budget, library=self.library)

    def _failures(self, evaluation: Evaluation, rows: Sequence[PlannedRow]) -> dict[str, str]:
        """Try each row alone on a few users; return those that fail, by label, and why."""
        found = {}
        for row in rows:
            config = evaluation.config_of((row,)).model_copy(update={"users": _PROBED_USERS, "decompose": 0})
            with tempfile.TemporaryDirectory() as folder:
                try:
                    run_evaluation(config, Path(folder), resume=True, budget=self.budget, library=self.library)
                except BudgetExceededError:
                    raise
                except PromptailorError as error:
                    found[row.row.label] = str(error)
        return found

    def _timed(self, name: str, entry: Entry, work: Callable[[], Entry]) -> Entry:
        """Do one run's work and keep its entry, with what it took; where it fails, with the reason."""
        self.ledger = write_entry(self.folder, self.ledger, name, entry)
        started, done = time.perf_counter(), entry
        try:
            done = work()
        except BudgetExceededError:
            raise
        except PromptailorError as error:
            done = entry.model_copy(update={"status": "missing", "reason": str(error)})
        finally:
            seconds = time.perf_counter() - started
            done = done.model_copy(update={"seconds": entry.seconds + seconds})
            self.ledger = write_entry(self.folder, self.ledger, name, done)
        self._say(f"{done.status:<9} {name}: {seconds:,.0f} s, {done.requests:,} requests")
        return done

    def _entry(self, name: str, *, digest: str, **about: Any) -> Entry:
        """Begin an entry; the seconds of an earlier, unfinished part are in it."""
        before = self.ledger.entries.get(name)
        return Entry(
            digest=digest,
            status="started",
            seconds=before.seconds if before and before.digest == digest else 0.0,
            command=" ".join(["promptailor", *sys.argv[1:]]),
            commit=self.commit,
            **about,
        )

    def _lack(self, what: str, reason: str) -> None:
        self.missing.append(Missing(what=what, reason=reason))

    def _say(self, line: str) -> None:
        self.console.print(line)


def _trained(folder: Path, ledger: Ledger, training: Training) -> bool:
    return _there(folder, ledger, training.id, training.digest, f"{POLICY}/{MANIFEST}")


def _evaluated(folder: Path, ledger: Ledger, evaluation: Evaluation) -> bool:
    return _there(folder, ledger, evaluation.id, evaluation.digest, REPORT)


def _there(folder: Path, ledger: Ledger, name: str, digest: str, file: str) -> bool:
    """Whether a run with these settings is done, and its last file there."""
    entry = ledger.entries.get(name)
    done = entry is not None and entry.status == "done" and entry.digest == digest
    return done and (folder / name / file).is_file()


def _costs(rows: Sequence[PlannedRow], report: EvalReport) -> dict[str, RowCost]:
    costs = {}
    for row in rows:
        name = row.row.spec.label
        if result := report.methods.get(name):
            costs[row.row.label] = RowCost(
                method=name,
                seconds=result.seconds,
                llm_calls=result.llm_calls,
                training=row.training.id if row.training else None,
                extension=row.training.extending.id if row.training and row.training.extending else None,
            )
    return costs
