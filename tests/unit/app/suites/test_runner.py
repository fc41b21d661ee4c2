"""A suite's runs on the planted world: each made once, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptailor.app import wiring
from promptailor.app.backends.budget import Budget
from promptailor.app.backends.store import STORE_FILE, ResponseStore
from promptailor.app.evaluation import run_evaluation
from promptailor.app.job import TrainConfig
from promptailor.app.suites import runner
from promptailor.app.suites.ledger import read_ledger
from promptailor.app.suites.page import make_exhibit, read_ledgers, write_suite_page
from promptailor.app.suites.plan import Run
from promptailor.app.suites.runner import describe, run_suite
from promptailor.app.suites.suite import Suite
from promptailor.app.training import run_training_job
from promptailor.evals import render, statistics
from promptailor.evals.report import read_report
from promptailor.evals.sentences import LINEAGE_FILE, read_extension
from promptailor.prompts.errors import InputError, ModelCallError, RunInterruptedError

MANUAL = {"label": "Manual prompts", "method": "manual"}
POPULARITY = {"label": "Pop", "method": "popularity"}
ENUMERATION = {"label": "Enumeration", "method": "enumeration", "train": {}}
FUSED = {"label": "Fused", "method": "enumeration@fused?fusion=rrf&n_steps=2", "train": {}}
EXTENDED = {
    "label": "Bandit, extended",
    "method": "bandit@extended",
    "train": {},
    "sentences": {
        "prompt": "Enumeration",
        "propose": {"source": "paraphrase", "proposals": 1, "patterns": ["role_playing"]},
        "admit": {"held_out": 8, "alpha": 1.0},
    },
}
EXHIBIT = {"id": "table-2", "title": "Overall", "rows": ["Enumeration", "Pop"]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and intervals have tests of their own."""
    monkeypatch.setattr(render, "to_html", lambda report: "<html>")
    monkeypatch.setattr(statistics, "N_BOOTSTRAP", 50)
    monkeypatch.setattr(wiring, "PLANTED_USERS", 100)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders of the runs that were really made."""
    folders: list[str] = []

    def note(name: str) -> None:
        original = getattr(runner, name)

        def noted(config: Any, out: Path, **rest: Any) -> Any:
            folders.append(f"{out.parent.name}/{out.name}")
            return original(config, out, **rest)

        monkeypatch.setattr(runner, name, noted)

    note("run_training_job")
    note("run_evaluation")
    return folders


def group(*rows: Mapping[str, Any], name: str = "main", **about: Any) -> dict[str, Any]:
    return {"id": name, "title": "Methods", "rows": list(rows), **about}


def run(out: Path, *groups: Mapping[str, Any], **about: Any) -> Run:
    sizes = {"users": 10, "calls": 30, "test_users": 6}
    suite = Suite.model_validate({"name": "tried", "about": "", "sizes": sizes, "groups": list(groups)})
    return Run(**{"suite": suite, "dataset": "planted", "model": "planted:1", "out": out, **about})


def test_equal_trainings_are_made_once_and_a_second_go_makes_nothing(tmp_path: Path, made: list[str]) -> None:
    tried = run(tmp_path, group(ENUMERATION, FUSED, MANUAL), group(ENUMERATION, POPULARITY, name="again"))
    first = run_suite(tried)
    training = describe(tried)
    assert (first.trained, first.evaluated, first.kept, first.complete) == (1, 2, 0, True)
    assert len(made) == 3
    assert training.kept == 3
    assert not training.trainings + training.evaluations

    second = run_suite(tried)
    assert (second.trained, second.evaluated, second.kept) == (0, 0, 3)
    assert len(made) == 3, "nothing was made again"
    assert (second.seconds, second.requests) == (first.seconds, first.requests)


def test_what_one_run_has_bought_is_free_for_the_others_and_still_a_call_of_the_method(tmp_path: Path) -> None:
    run_suite(run(tmp_path, group(MANUAL), group(MANUAL, ENUMERATION, name="more")))
    ledger = read_ledger(tmp_path / "planted")
    assert ledger is not None
    first, more = ledger.entries["main/seed-0"], ledger.entries["more/seed-0"]
    assert first.rows["Manual prompts"].llm_calls == more.rows["Manual prompts"].llm_calls == 6
    assert first.requests == 12, "six users, and their histories swapped as a control"
    assert more.requests == 12, "enumeration's own and its control's; the manual prompt was bought already"
    library = ResponseStore(tmp_path / "planted" / runner.LIBRARY / STORE_FILE)
    assert library.requests == ledger.requests, "each request is paid in one run"


def test_a_row_that_fails_stops_no_other_and_is_tried_again(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"label": "Broken", "method": "random-search", "train": {}}
    original = run_training_job

    def fails(config: TrainConfig, out: Path, **rest: Any) -> Any:
        if config.policy == "random-search":
            raise ModelCallError("the model is away")
        return original(config, out, **rest)

    tried = run(tmp_path, group(broken, ENUMERATION, MANUAL, exhibits=[EXHIBIT | {"rows": ["Broken", "Enumeration"]}]))
    with monkeypatch.context() as patched:
        patched.setattr(runner, "run_training_job", fails)
        outcome = run_suite(tried)
    assert not outcome.complete
    assert {(lack.what.partition("-")[0], lack.reason) for lack in outcome.missing} == {
        ("train/random", "the model is away"),
        ("main/seed", "the model is away"),
    }
    assert list(read_report(tmp_path / "planted/main/seed-0").methods) == ["enumeration", "manual"]
    exhibit = make_exhibit(
        tried.suite,
        tried.suite.groups[0],
        tried.suite.groups[0].exhibits[0],
        tmp_path,
        read_ledgers(tried.suite, tmp_path),
    )
    assert [list(row.runs) for row in exhibit.rows] == [[], ["planted"]]

    monkeypatch.setattr(runner, "run_training_job", lambda config, out, **rest: original(config, out, **rest))
    repaired = run_suite(tried)
    assert repaired.complete
    assert list(read_report(tmp_path / "planted/main/seed-0").methods) == ["random-search", "enumeration", "manual"]


def test_a_row_that_fails_while_others_are_evaluated_is_found_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_evaluation

    def fails(config: Any, out: Path, **rest: Any) -> Any:
        if "itemknn" in config.methods:
            raise InputError("itemknn: too few users")
        return original(config, out, **rest)

    tried = run(tmp_path, group(POPULARITY, {"label": "KNN", "method": "itemknn"}))
    monkeypatch.setattr(runner, "run_evaluation", fails)
    for _ in range(2):
        outcome = run_suite(tried)
        assert [(lack.what, lack.reason) for lack in outcome.missing] == [
            ("main/seed-0, KNN", "itemknn: too few users")
        ]
        assert list(read_report(tmp_path / "planted/main/seed-0").methods) == ["popularity"]
    monkeypatch.setattr(runner, "run_evaluation", original)
    assert run_suite(tried).complete
    assert list(read_report(tmp_path / "planted/main/seed-0").methods) == ["popularity", "itemknn"]


def test_other_rows_or_users_make_the_evaluation_again_and_keep_its_answers(tmp_path: Path, made: list[str]) -> None:
    run_suite(run(tmp_path, group(MANUAL)))
    wider = run_suite(run(tmp_path, group(POPULARITY, MANUAL)))
    assert wider.complete
    assert list(read_report(tmp_path / "planted/main/seed-0").methods) == ["popularity", "manual"]
    ledger = read_ledger(tmp_path / "planted")
    assert ledger is not None
    assert ledger.entries["main/seed-0"].requests == 12, "the same prompts as before"


def test_a_stop_keeps_what_is_there_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = run(tmp_path, group(POPULARITY), group(ENUMERATION, name="later"))
    original = run_training_job

    def stopped(config: TrainConfig, out: Path, *, budget: Budget, **rest: Any) -> Any:
        budget.stop("stopped by the user")
        return original(config, out, budget=budget, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "run_training_job", stopped)
        with pytest.raises(RunInterruptedError):
            run_suite(tried)
    done = run_suite(tried)
    assert (done.trained, done.evaluated, done.kept) == (1, 1, 1)


def test_a_budget_is_that_of_all_runs_together(tmp_path: Path) -> None:
    tried = run(tmp_path, group(MANUAL), group(ENUMERATION, name="later"))
    short = run_suite(tried, budget="calls=20")
    assert not short.complete
    assert "budget" in short.missing[-1].reason
    assert short.requests <= 20
    assert run_suite(tried, budget="calls=500").complete


def test_a_folder_of_another_suite_is_refused(tmp_path: Path) -> None:
    tried = run(tmp_path, group(POPULARITY))
    run_suite(tried)
    other = tried.suite.model_copy(update={"name": "other"})
    with pytest.raises(InputError, match="holds the suite 'tried'"):
        run_suite(run(tmp_path, group(POPULARITY), suite=other))
    with pytest.raises(InputError, match="no runs of the suite other"):
        write_suite_page(other, tmp_path, tmp_path / "page")


def test_points_of_a_sweep_become_points_of_a_curve(tmp_path: Path) -> None:
    sweep = {"name": "candidates", "values": [4, 8], "evaluate": "n_candidates"}
    exhibit = {"id": "figure-5", "title": "Candidates", "kind": "curve"}
    tried = run(tmp_path, group(POPULARITY, sweep=sweep, exhibits=[exhibit]))
    run_suite(tried)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "scaling.json").write_text('[{"n_users": 1000, "seconds": 2.5}]')
    page = write_suite_page(tried.suite, tmp_path, tmp_path / "page")
    assert page.runs == 2
    assert "| 1,000 | 2.5 |" in (tmp_path / "page" / "results.md").read_text("utf-8")
    run_suite(replace(tried, seeds=(1,)))
    (only,) = tried.suite.groups
    found = make_exhibit(tried.suite, only, only.exhibits[0], tmp_path, read_ledgers(tried.suite, tmp_path))
    assert [(row.series, row.x) for row in found.rows] == [("Pop", 4), ("Pop", 8)]
    assert [
        [run.folder.relative_to(tmp_path / "planted").as_posix() for run in row.runs["planted"]] for row in found.rows
    ] == [
        ["main/4/seed-0", "main/4/seed-1"],
        ["main/8/seed-0", "main/8/seed-1"],
    ]


def test_a_row_on_an_extended_catalogue_is_evaluated_beside_those_on_the_one_there_was(
    tmp_path: Path, made: list[str], segment_embeddings: None
) -> None:
    exhibit = {"id": "sentences", "title": "Sentences", "kind": "admissions", "rows": ["Bandit, extended"]}
    tried = run(tmp_path, group(ENUMERATION, MANUAL, EXTENDED, exhibits=[exhibit]))
    first = run_suite(tried)
    assert (first.trained, first.evaluated, first.missing) == (2, 1, ())
    (folder,) = (tmp_path / "planted" / "sentences").iterdir()
    extension = read_extension(folder / LINEAGE_FILE)
    assert [admission.proposal.source for admission in extension.tried] == ["planted:1"]
    report = read_report(tmp_path / "planted" / "main" / "seed-0")
    assert set(report.methods) == {"enumeration", "manual", "bandit@extended"}
    assert report.environment.catalogue_digest == extension.digest
    suite = tried.suite
    shown = make_exhibit(suite, suite.groups[0], suite.groups[0].exhibits[0], tmp_path, read_ledgers(suite, tmp_path))
    assert shown.rows[0].runs["planted"][0].extension == folder
    n_made = len(made)
    assert run_suite(tried).kept == 3
    assert len(made) == n_made
