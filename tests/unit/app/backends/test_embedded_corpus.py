"""What the embedded model is taught, and what it is never shown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from promptailor.evals.datasets import Dataset
from promptailor.prompts.patterns import SENTENCE_PATTERNS, load_catalogue

pytest.importorskip("transformers")

from promptailor.app.backends.embedded.corpus import Corpus, Mixture, answer_text
from promptailor.app.backends.embedded.tasks import load_tasks
from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.embedded.tokenizer import PromptEncoder, build_tokenizer
from promptailor.app.backends.embedded.vocabulary import data_vocabulary, prompt_phrases, prompt_words

CATALOGUE, TASKS = load_catalogue(), load_tasks()


def corpus_of(dataset: Dataset, **mixture: float) -> Corpus:
    phrases, words = prompt_phrases(CATALOGUE, TASKS, "movies"), prompt_words(CATALOGUE, TASKS, "movies")
    vocabulary = data_vocabulary(phrases, words, list(dataset.items), dataset, CATALOGUE)
    encoder = PromptEncoder(build_tokenizer(vocabulary))
    return Corpus(dataset, CATALOGUE, TASKS, encoder, Teachers.of(dataset), Mixture(**mixture))


def show(corpus: Corpus, ids: list[int]) -> str:
    return corpus.encoder.decode([token for token in ids if token != corpus.encoder.end_id])


def test_equal_generators_give_equal_examples(film_dataset: Dataset) -> None:
    first, second = corpus_of(film_dataset), corpus_of(film_dataset)
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    assert [first.example(one) for _ in range(40)] == [second.example(other) for _ in range(40)]


def test_the_last_two_items_of_every_user_change_nothing(film_dataset: Dataset) -> None:
    swapped = {user: (*s[:-2], "i0", "i59") for user, s in film_dataset.sequences.items()}
    other = dataclasses.replace(film_dataset, sequences=swapped)
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    shown, changed = corpus_of(film_dataset), corpus_of(other)
    assert [shown.example(one) for _ in range(40)] == [changed.example(two) for _ in range(40)]
    assert shown.title_sequence(one, 9) == changed.title_sequence(two, 9)


def test_a_catalogue_with_hardly_an_untouched_item_gives_shorter_lists(film_dataset: Dataset) -> None:
    items = dict(list(film_dataset.items.items())[:12])
    everything = tuple(items)
    small = dataclasses.replace(
        film_dataset, items=items, sequences={"a": everything, "b": everything[::-1]}, profiles={}, times={}
    )
    corpus, rng = corpus_of(small), np.random.default_rng(0)
    assert all(len(corpus.ranking(rng).numbers) <= 5 + 1 for _ in range(40))  # two untouched, three chosen, a stranger


def test_an_answer_ranks_every_candidate_once_and_matches_its_numbers(film_dataset: Dataset) -> None:
    corpus, rng = corpus_of(film_dataset, in_words=0.0), np.random.default_rng(0)
    for _ in range(60):
        example = corpus.ranking(rng)
        assert sorted(example.numbers) == list(range(1, len(example.numbers) + 1))
        answer = show(corpus, example.answer)
        assert answer.startswith(str(example.numbers[0]))
        assert example.answer[0] == corpus.encoder.label_ids[str(example.numbers[0])]
        titles = [corpus.encoder.decode([example.prompt[place]]) for place in example.title_places]
        markers = [example.prompt[place - 1] for place in example.title_places]
        assert markers == [corpus.encoder.marker_ids[n - 1] for n in example.numbers[: len(markers)]]
        assert all(title.startswith(" Film") for title in titles)


def test_history_lengths_and_sentences_vary_and_are_sometimes_missing(film_dataset: Dataset) -> None:
    corpus, rng = corpus_of(film_dataset, paraphrase=0.0, stranger=0.0), np.random.default_rng(0)
    prompts = [show(corpus, corpus.ranking(rng).prompt) for _ in range(400)]
    for pattern in SENTENCE_PATTERNS:
        texts = [CATALOGUE.fill(sentence, "movies") for sentence in CATALOGUE.sentences(pattern)]
        uses = [sum(text in prompt for prompt in prompts) for text in texts]
        assert min(uses) > 0
        assert sum(uses) < len(prompts)
    assert any("<history>" not in prompt for prompt in prompts)
    assert any("<profile>" in prompt for prompt in prompts)


def test_a_strategy_without_positives_first_is_the_teachers_order(film_dataset: Dataset) -> None:
    corpus = corpus_of(film_dataset, positives_first=0.0, no_sentence=0.0, paraphrase=0.0, stranger=0.0, in_words=0.0)
    popular = CATALOGUE.fill(CATALOGUE.reasoning_guidance.sentences[1], "movies")
    counts = {f"Film {n}": float(count) for n, count in enumerate(Teachers.of(film_dataset).counts)}
    rng, checked = np.random.default_rng(0), 0
    for _ in range(200):
        example = corpus.ranking(rng)
        if popular in show(corpus, example.prompt):
            titles = [corpus.encoder.decode([example.prompt[place]]).strip() for place in example.title_places]
            order = [counts[title] for title in titles]
            assert order == sorted(order, reverse=True)
            checked += 1
    assert checked > 5


def test_a_stranger_stands_last_whatever_its_title_says(film_dataset: Dataset) -> None:
    corpus, rng = corpus_of(film_dataset, stranger=1.0), np.random.default_rng(0)
    for _ in range(30):
        example = corpus.ranking(rng)
        assert example.title_places == []  # a candidate without a token leaves the title losses out
        assert example.n_ordered <= len(example.numbers) - 1


def test_refining_answers_with_another_wording_of_the_same_sentence(film_dataset: Dataset) -> None:
    corpus, rng = corpus_of(film_dataset, refine=1.0), np.random.default_rng(0)
    wordings = {
        text.format_map(CATALOGUE.words("movies")): (pattern, sentence.id)
        for pattern in SENTENCE_PATTERNS
        for sentence in CATALOGUE.sentences(pattern)
        for text in (sentence.text, *TASKS.paraphrases[pattern][sentence.id])
    }
    for _ in range(40):
        example = corpus.example(rng)
        asked = show(corpus, example.prompt).split("sentence only: ")[1].removesuffix("<|assistant|>")
        answer = show(corpus, example.answer)
        assert answer != asked
        assert wordings[answer] == wordings[asked]


def test_every_catalogue_sentence_has_paraphrases_that_keep_its_domain_words() -> None:
    for pattern in SENTENCE_PATTERNS:
        for sentence in CATALOGUE.sentences(pattern):
            for text in TASKS.paraphrases[pattern][sentence.id]:
                for word in ("{item}", "{items}", "{interest}", "{field}"):
                    assert (word in sentence.text) <= (word in text), text


def test_a_summary_tells_kind_and_decade_and_a_profile_tells_what_the_history_shows(film_dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    summaries = corpus_of(film_dataset, refine=0.0, summarise=1.0)
    example = summaries.example(rng)
    number = int(show(summaries, example.prompt).split("- Film ")[1].split("\n")[0])
    genre = ("Comedy", "Drama", "Sci-Fi")[number // 20]
    assert show(summaries, example.answer) == f"Kinds: {genre}.\nDecade: {(1960 + number) // 10 * 10}s."
    profiles = corpus_of(film_dataset, refine=0.0, summarise=0.0, profile=1.0)
    answer = show(profiles, profiles.example(rng).answer)
    assert answer.startswith("Kinds: ")
    assert "Favourites:\n- Film " in answer


def test_without_categories_and_years_a_summary_names_similar_items(film_dataset: Dataset) -> None:
    bare = {i: item.model_copy(update={"categories": ()}) for i, item in film_dataset.items.items()}
    corpus = corpus_of(dataclasses.replace(film_dataset, items=bare, years={}), refine=0.0, summarise=1.0)
    answer = show(corpus, corpus.example(np.random.default_rng(0)).answer)
    assert answer.startswith("Similar movies:\n- Film ")
    assert answer.count("\n- ") == 3


def test_answers_are_written_as_their_format_says() -> None:
    written = {s.id: answer_text(s, [2, 1], ["Heat", "It"]) for s in CATALOGUE.output_format.sentences}
    assert written == {
        "lines": "2\n1",
        "commas": "2, 1",
        "no_explanation": "2 1",
        "numbered_titles": "2. Heat\n1. It",
        "arrows": "2 > 1",
    }
