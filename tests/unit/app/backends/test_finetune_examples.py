"""What a fine-tuned model is taught, and what it is never shown."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from promptailor.evals.datasets import Dataset
from promptailor.prompts.errors import DataError
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("peft")

from promptailor.app.backends.finetune.examples import Example, RankingExamples

CATALOGUE = load_catalogue()


def draw(dataset: Dataset, n: int, seed: int = 0) -> list[Example]:
    examples, rng = RankingExamples(dataset, CATALOGUE), np.random.default_rng(seed)
    return [examples.draw(rng) for _ in range(n)]


def test_equal_generators_give_equal_examples(film_dataset: Dataset) -> None:
    assert draw(film_dataset, 60, seed=3) == draw(film_dataset, 60, seed=3)
    assert draw(film_dataset, 60, seed=3) != draw(film_dataset, 60, seed=4)


def test_no_held_out_item_of_any_user_is_ever_a_positive_or_in_a_history(film_dataset: Dataset) -> None:
    seen: dict[str, set[str]] = {user_id: set() for user_id in film_dataset.sequences}
    for example in draw(film_dataset, 6_000):
        seen[example.user_id] |= {example.positive.item_id, *(item.item_id for item in example.history)}
    for user_id, sequence in film_dataset.sequences.items():
        assert seen[user_id] == set(sequence[:-2])  # everything else of everybody is seen, so enough was drawn


def test_the_last_two_items_of_every_user_change_nothing(film_dataset: Dataset) -> None:
    swapped = {user: (*s[:-2], "i0", "i59") for user, s in film_dataset.sequences.items()}
    assert draw(film_dataset, 200) == draw(dataclasses.replace(film_dataset, sequences=swapped), 200)


def test_the_positive_is_what_the_user_chose_right_after_the_history(film_dataset: Dataset) -> None:
    for example in draw(film_dataset, 300):
        sequence = film_dataset.training_sequences()[example.user_id]
        moment = sequence.index(example.positive.item_id)
        assert tuple(item.item_id for item in example.history) == sequence[moment - len(example.history) : moment]
        assert example.history


def test_an_answer_reads_as_the_positive_and_then_the_rest_by_popularity(film_dataset: Dataset) -> None:
    counts = Counter(item_id for s in film_dataset.training_sequences().values() for item_id in s)
    by_title = {item.title: item for item in film_dataset.items.values()}
    for example in draw(film_dataset, 200):
        fenced = example.messages[-1].content.partition("<candidates>\n")[2].partition("\n</candidates>")[0]
        shown = [by_title[line.partition(". ")[2]] for line in fenced.split("\n")]
        parsed = parse_ranking(example.answer, shown)
        assert parsed.report.valid
        ranked = [shown[place] for place in parsed.order]
        assert ranked[0] == example.positive
        popularity = [counts[item.item_id] for item in ranked[1:]]
        assert popularity == sorted(popularity, reverse=True)
        touched = set(film_dataset.training_sequences()[example.user_id])
        assert not touched & {item.item_id for item in ranked[1:]}


def test_every_sentence_is_shown_and_sometimes_none(film_dataset: Dataset) -> None:
    examples = draw(film_dataset, 600)
    prompts = ["\n".join(message.content for message in example.messages) for example in examples]
    for pattern in ("role_playing", "reasoning_guidance", "output_format"):
        texts = [CATALOGUE.fill(sentence, "movies") for sentence in CATALOGUE.sentences(pattern)]
        assert {[text in prompt for text in texts].count(True) for prompt in prompts} == {0, 1}
        assert all(any(text in prompt for prompt in prompts) for text in texts)


def test_a_shorter_history_is_all_that_differs(film_dataset: Dataset) -> None:
    examples = RankingExamples(film_dataset, CATALOGUE)
    for seed in range(40):
        whole = examples.draw(np.random.default_rng(seed))
        for n in (2, 0):
            short = examples.draw(np.random.default_rng(seed), max_history=n)
            assert short.history == whole.history[len(whole.history) - min(n, len(whole.history)) :]
            assert (short.answer, short.positive) == (whole.answer, whole.positive)


def test_a_data_set_without_enough_users_or_items_is_an_error(film_dataset: Dataset) -> None:
    short = {user: s[:3] for user, s in film_dataset.sequences.items()}
    with pytest.raises(DataError, match="films: no user has four interactions"):
        RankingExamples(dataclasses.replace(film_dataset, sequences=short), CATALOGUE)
    few = dict(list(film_dataset.items.items())[:30])
    with pytest.raises(DataError, match="30 items are too few"):
        RankingExamples(dataclasses.replace(film_dataset, items=few), CATALOGUE)
