"""Exhibits of added sentences and of rewritten instructions, from the files that runs leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.evals.exhibit_changes import make_admissions, make_rounds
from promptailor.evals.exhibit_made import Made
from promptailor.evals.exhibit_runs import Run, Runs
from promptailor.evals.exhibit_tables import Sources
from promptailor.evals.exhibits import Exhibit, ExhibitKind, Row, RunMethod
from promptailor.evals.published_figures import load_published
from promptailor.evals.report import Environment
from promptailor.evals.sentences import (
    LINEAGE_FILE,
    RANKING_FILE,
    Admission,
    Extension,
    RankedSentence,
    SentenceRanking,
)
from promptailor.evals.statistics import Estimate
from promptailor.policies.acceptance import Verdict
from promptailor.policies.lineage import LINEAGE_FILE as VERSIONS_FILE
from promptailor.policies.lineage import Lineage, PromptVersion
from promptailor.prompts.patterns import PromptSpec, load_catalogue
from promptailor.prompts.proposals import Proposal

CATALOGUE = load_catalogue()


def verdict(difference: float, *, accepted: bool) -> Verdict:
    low, high = difference - 0.01, difference + 0.01
    return Verdict(
        accepted=accepted, n_users=80, after=0.6, difference=difference, low=low, high=high, p=0.004, alpha=0.01
    )


def exhibit(kind: ExhibitKind, run: RunMethod) -> Exhibit:
    rows = (Row(label="Bandit", runs={"ml-100k": (run,)}), Row(label="RPP", runs={"ml-100k": (run,)}))
    return Exhibit(id="changes", title="Changes", kind=kind, rows=rows)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Sources:
    class Report:
        environment = Environment(seed=3)

    monkeypatch.setattr(Run, "report", Report)
    return Sources(runs=Runs(), published=load_published("rpp"), catalogue=CATALOGUE)


def texts(made: Made) -> list[str]:
    cells = [cell for table in made.tables for line in table.lines for cell in line.cells]
    labels = [line.label for table in made.tables for line in table.lines]
    return [*labels, *(f"{cell.text} {cell.small}".strip() for cell in cells)]


def test_every_sentence_stands_with_both_effects_and_its_outcome(tmp_path: Path, sources: Sources) -> None:
    good, bad = (
        Admission(
            proposal=Proposal(id=name, pattern="role_playing", text=f"You sell {{items}}, {name}.", source="critic"),
            everybody=verdict(0.001, accepted=False),
            suited=verdict(0.04, accepted=name == "new-1"),
            share_suited=0.3,
            admitted=name == "new-1",
        )
        for name in ("new-1", "new-2")
    )
    extension = Extension(
        grown_from="a", digest="b", dataset="ml-100k", model="planted:1", critic="openai:gpt", gate="test", alpha=0.05,
        frame=PromptSpec(role_playing=0, history_length=3, reasoning_guidance=0, output_format=0),
        train_users=200, held_out=180, samples=1, critiques=5, dropped={"too_long": 2}, tried=(good, bad),
        llm_calls=900,
    )  # fmt: skip
    (tmp_path / LINEAGE_FILE).write_text(extension.model_dump_json())
    some = Estimate(mean=0.2, low=0.1, high=0.3)
    ranked = RankedSentence(
        id="new-1", pattern="role_playing", text="You sell {items}.", proposed=True,
        predicted=some, measured=some, ndcg=some,
    )  # fmt: skip
    ranking = SentenceRanking(model="m", n_users=50, correlation=some, sentences=(ranked,), prompts=100)
    (tmp_path / RANKING_FILE).write_text(ranking.model_dump_json())
    run = RunMethod(folder=tmp_path / "run", method="bandit", training=tmp_path / "train", extension=tmp_path)
    made = make_admissions(exhibit("admissions", run), sources)
    shown = texts(made)
    assert [line.label for line in made.tables[0].lines] == ["You sell {items}, new-1.", "You sell {items}, new-2."]
    assert "+0.040 [+0.030, +0.050]" in shown
    assert (shown.count("admitted"), shown.count("not shown to help")) == (1, 1)
    assert "alpha 0.05 over 4 tests" in made.tables[0].caption
    assert "rank correlation +0.20 [+0.10, +0.30]" in made.tables[1].caption
    assert made.notes == (
        "ml-100k: 2 sentences by openai:gpt were tried, 2 kept out by the guards, 1 admitted, for 900 calls.",
    )


def test_rounds_are_counted_and_listed_once_for_all_rows_of_a_training(tmp_path: Path, sources: Sources) -> None:
    versions = (
        PromptVersion(number=0, text="Write."),
        PromptVersion(number=1, parent=0, text="Write more.", mean_rank=4.2, verdict=verdict(0.03, accepted=True)),
        PromptVersion(number=2, parent=1, text="Write less.", mean_rank=3.9, verdict=verdict(-0.02, accepted=False)),
        PromptVersion(number=3, parent=1, reason="leaked_title", mean_rank=3.0),
    )
    (tmp_path / VERSIONS_FILE).write_text(Lineage(versions=versions).model_dump_json())
    run = RunMethod(folder=tmp_path / "run", method="agp", training=tmp_path)
    made = make_rounds(exhibit("rounds", run), sources)
    counts, rounds = made.tables
    assert [[cell.text for cell in line.cells] for line in counts.lines] == [["ml-100k", "3", "3", "2", "1"]]
    assert [line.cells[-1].text for line in rounds.lines] == ["accepted", "not shown to help", "leaked title"]
    assert "+0.030 [+0.020, +0.040]" in texts(made)


@pytest.mark.parametrize(("kind", "make"), [("admissions", make_admissions), ("rounds", make_rounds)])
def test_runs_without_either_say_so(tmp_path: Path, sources: Sources, kind: ExhibitKind, make: object) -> None:
    assert callable(make)
    made = make(exhibit(kind, RunMethod(folder=tmp_path, method="manual")), sources)
    assert made.tables == ()
    assert len(made.notes) == 1
