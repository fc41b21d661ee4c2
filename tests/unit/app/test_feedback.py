"""Votes on drawn prompts: exported, learned from, and other policies judged by them; the truth is planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="the extra `serve` is not installed")

from promptailor.app.feedback import estimate_from_feedback, export_feedback, learn_from_feedback
from promptailor.app.server.feedback_store import LoggedChoice, ShownAnswer, open_feedback
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.evals import statistics
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.types import StateInputs
from promptailor.prompts.errors import DataError, InputError, SpecError
from promptailor.prompts.patterns import PATTERNS, PromptSpec

N_USERS, ANSWERS_PER_USER = 250, 4


def chance_of_up(spec: PromptSpec) -> float:
    """Most like the third role and the last guidance."""
    return 0.15 + 0.3 * (spec.role_playing == 2) + 0.3 * (spec.reasoning_guidance == 8)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home folder whose database has the votes of users who saw an untrained bandit's drawn prompts."""
    settings = Settings(PROMPTAILOR_HOME=tmp_path_factory.mktemp("home"))
    workspace = Workspace(settings=settings, dataset_name="planted", model=None)
    catalogue, dataset = workspace.catalogue, workspace.dataset
    vectors = np.random.default_rng(1).standard_normal((len(dataset.items), 8)).astype(np.float32)
    degrees = np.ones(len(dataset.items), np.int64)
    embeddings = ItemEmbeddings.fit(list(dataset.items), vectors, degrees, dataset.training_sequences())
    embeddings.save(settings.home / "embeddings" / dataset.digest[:16])  # where a workspace keeps those that it trains
    bandit = FactoredBandit(PromptSpace(catalogue), workspace.embeddings)
    rng = np.random.default_rng(0)
    with open_feedback(settings) as store:
        for number, user in enumerate(list(dataset.sequences)[:N_USERS]):
            history = tuple(dataset.items[i] for i in dataset.sequences[user][:-2])
            inputs = StateInputs(history=history, step=0, history_length=1)
            for turn in range(ANSWERS_PER_USER):
                decision = bandit.choose(inputs, key=(number, turn), explore=True)
                answer = ShownAnswer(
                    answer_id=f"{number}-{turn}",
                    user=f"user-{number}",
                    policy="bandit",
                    version="prior",
                    model="planted:1",
                    catalogue_digest=catalogue.digest,
                    explored=True,
                    prompt_digest="0",
                    spec=decision.spec,
                    steps=(
                        {
                            pattern: LoggedChoice(action=0, sentence_id="", probability=decision.probabilities[pattern])
                            for pattern in PATTERNS
                        },
                    ),
                    history=history,
                    profile=(),
                    ranking=("1", "2"),
                )
                store.add_answer(answer)
                if turn:  # nobody votes on everything
                    store.vote(answer.answer_id, "1", "up" if rng.random() < chance_of_up(decision.spec) else "down")
    return settings


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "N_BOOTSTRAP", 400)


def test_what_was_learned_on_some_users_is_judged_on_the_others(settings: Settings, tmp_path: Path) -> None:
    learned = learn_from_feedback(tmp_path / "learned", dataset="planted", share=0.6, seed=0, settings=settings)
    assert learned.left_out == {"no votes": N_USERS}
    assert 100 < learned.users < 200
    assert learned.rows == learned.users * (ANSWERS_PER_USER - 1)

    better = estimate_from_feedback(f"bandit={learned.folder}", dataset="planted", seed=0, settings=settings)
    manual = estimate_from_feedback("manual", dataset="planted", seed=0, settings=settings)
    assert better.report.n_users == N_USERS - learned.users
    assert manual.report.n_users == N_USERS
    workspace = Workspace(settings=settings, dataset_name="planted", model=None)
    for found, truth in ((better, 0.75), (manual, chance_of_up(workspace.catalogue.manual_prompt))):
        additive = found.report.estimates["additive"]
        assert additive.low <= truth <= additive.high
        assert found.report.missing.keys() == {"ips", "snips", "dr"}  # 1,215 prompts and some hundred votes
    assert better.report.estimates["additive"].low > manual.report.estimates["additive"].high


def test_an_export_has_every_answer_and_its_votes(settings: Settings, tmp_path: Path) -> None:
    exported = export_feedback(tmp_path / "votes.jsonl", settings=settings)
    rows = [json.loads(line) for line in exported.output.read_text().splitlines()]
    assert len(rows) == exported.answers == N_USERS * ANSWERS_PER_USER
    assert sum(len(row["votes"]) for row in rows) == exported.votes == N_USERS * (ANSWERS_PER_USER - 1)
    assert {row["explored"] for row in rows} == {True}


def test_what_cannot_be_learned_or_judged_is_one_line(settings: Settings, tmp_path: Path) -> None:
    empty = Settings(PROMPTAILOR_HOME=tmp_path)
    with pytest.raises(DataError, match="0 answers with votes to learn from; collect 50"):
        learn_from_feedback(tmp_path / "learned", dataset="planted", share=1.0, seed=0, settings=empty)
    with pytest.raises(SpecError, match="write NAME=FOLDER, or manual"):
        estimate_from_feedback("grips", dataset="planted", seed=0, settings=settings)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="already holds a run"):
        learn_from_feedback(tmp_path, dataset="planted", share=1.0, seed=0, settings=empty)
