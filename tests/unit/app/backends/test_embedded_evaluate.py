"""The acceptance table of an embedded model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from promptailor.evals.datasets import Dataset
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("transformers")

from promptailor.app.backends.embedded.evaluate import HISTORY_LENGTHS, evaluate_lm
from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.local.engine import Engine, LabelScores

CATALOGUE = load_catalogue()
N_REASONING = len(CATALOGUE.reasoning_guidance.sentences)


class TeachersPet(Engine):
    """An engine that ranks as the teacher of the prompt's reasoning sentence would, and else in shown order."""

    def __init__(self, engine: Engine, dataset: Dataset) -> None:
        super().__init__(engine.model, engine.tokenizer)
        self.teachers = Teachers.of(dataset)
        self.places = {item.title: place for place, item in enumerate(dataset.items.values())}

    def rank_batch(self, prompts, labels):  # type: ignore[no-untyped-def]
        return [self.answer(prompt[-1].content, of_prompt) for prompt, of_prompt in zip(prompts, labels, strict=True)]

    def answer(self, text: str, labels: tuple[str, ...]) -> LabelScores:
        shown = [
            self.places[line.split(". ", 1)[1]] for line in text.split("<candidates>\n")[1].split("\n")[: len(labels)]
        ]
        history = [self.places[line[2:]] for line in text.split("</history>")[0].split("\n") if line.startswith("- ")]
        for sentence in CATALOGUE.reasoning_guidance.sentences:
            if CATALOGUE.fill(sentence, "movies") in text and sentence.strategy:
                scores = self.teachers.scores(sentence.strategy, history, shown).tolist()
                return LabelScores(dict(zip(labels, scores, strict=True)))
        return LabelScores({label: -float(label) for label in labels})


def test_the_report_is_complete(trained_lm: Path, film_dataset: Dataset) -> None:
    stages: list[str] = []
    report = evaluate_lm(
        Engine.from_folder(trained_lm),
        film_dataset,
        CATALOGUE,
        max_users=4,
        text_users=2,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert (report.n_users, report.n_candidates) == (4, 10)
    assert len(report.prompts) == N_REASONING * len(HISTORY_LENGTHS)
    assert report.best.ndcg >= report.mean_ndcg >= report.worst.ndcg
    assert len(report.formats) == len(CATALOGUE.output_format.sentences)
    assert all(0.0 <= row.valid_rate <= 1.0 for row in report.formats)
    assert len(report.agreements) == N_REASONING
    assert len(set(stages)) == 3


def test_a_model_that_does_what_each_sentence_says_agrees_with_every_teacher(
    trained_lm: Path, film_dataset: Dataset
) -> None:
    engine = TeachersPet(Engine.from_folder(trained_lm), film_dataset)
    report = evaluate_lm(engine, film_dataset, CATALOGUE, max_users=20, text_users=1)
    for agreement in report.agreements:
        assert agreement.tau > agreement.tau_without + 0.2
        assert agreement.gain.low > 0
    assert report.best.ndcg > report.popularity
    assert report.gain.mean == pytest.approx(report.best.ndcg - report.popularity)


def test_popularity_is_counted_on_training_items_only(trained_lm: Path, film_dataset: Dataset) -> None:
    engine = Engine.from_folder(trained_lm)
    swapped = {user: (*s[:-2], s[-1], s[-2]) for user, s in film_dataset.sequences.items()}
    one = TeachersPet(engine, film_dataset).teachers.counts
    other = TeachersPet(engine, dataclasses.replace(film_dataset, sequences=swapped)).teachers.counts
    assert (one == other).all()
