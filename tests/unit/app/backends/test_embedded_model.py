"""The untrained model: what its embeddings and its last layer start from."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from promptailor.evals.datasets import Dataset
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("transformers")

import torch
from transformers import LlamaForCausalLM

from promptailor.app.backends.embedded.corpus import Corpus, Example, Mixture
from promptailor.app.backends.embedded.losses import Losses
from promptailor.app.backends.embedded.model import ModelSize, build_model
from promptailor.app.backends.embedded.tasks import load_tasks
from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.embedded.tokenizer import MAX_LABEL, PromptEncoder, build_tokenizer
from promptailor.app.backends.embedded.vocabulary import (
    data_vocabulary,
    prompt_phrases,
    prompt_words,
    sentence_variants,
)

CATALOGUE, TASKS = load_catalogue(), load_tasks()
ALWAYS_IN_ORDER = Mixture(refine=0.0, summarise=0.0, profile=0.0, no_sentence=0.0, stranger=0.0)


def made_of(dataset: Dataset, size: ModelSize) -> tuple[LlamaForCausalLM, Corpus]:
    phrases, words = prompt_phrases(CATALOGUE, TASKS, "movies"), prompt_words(CATALOGUE, TASKS, "movies")
    encoder = PromptEncoder(build_tokenizer(data_vocabulary(phrases, words, list(dataset.items), dataset, CATALOGUE)))
    teachers = Teachers.of(dataset)
    synonyms = [encoder.phrase_ids(variants) for variants in sentence_variants(CATALOGUE, TASKS, "movies")]
    model = build_model(encoder, list(dataset.items.values()), synonyms, teachers, size, seed=0)
    return model, Corpus(dataset, CATALOGUE, TASKS, encoder, teachers, ALWAYS_IN_ORDER)


@pytest.fixture(scope="module")
def untrained(film_dataset: Dataset) -> tuple[LlamaForCausalLM, Corpus]:
    return made_of(film_dataset, ModelSize())


def cosines(model: LlamaForCausalLM, left: list[int], right: list[int]) -> torch.Tensor:
    weight = torch.nn.functional.normalize(model.lm_head.weight.detach(), dim=1)
    return weight[left] @ weight[right].T


def test_numbers_titles_and_synonyms_start_from_what_is_known(
    untrained: tuple[LlamaForCausalLM, Corpus], film_dataset: Dataset
) -> None:
    model, corpus = untrained
    forms = corpus.encoder.number_forms
    titles = [t for item in film_dataset.items.values() if (t := corpus.encoder.title_id(item.title)) is not None]
    assert len(titles) == 60
    assert min(float(cosines(model, [f[0]], [f[-1]])) for f in forms) > 0.7, "the forms of one number are alike"
    assert float(cosines(model, [f[0] for f in forms[:10]], [f[0] for f in forms[10:]]).abs().max()) < 0.5
    genre = cosines(model, titles, titles)
    assert float(genre[:20, :20].mean()) > float(genre[:20, 20:].mean()) + 0.2, "films of one genre are alike"
    same, other = (corpus.encoder.phrase_ids(v) for v in sentence_variants(CATALOGUE, TASKS, "movies")[:2])
    assert float(cosines(model, same[:1], same[2:]).mean()) > float(cosines(model, same[:1], other).mean()) + 0.3


def lead_of_numbers_left(model: LlamaForCausalLM, corpus: Corpus) -> float:
    """Return how far the numbers still to come stand above those given, half way through an answer."""
    labels = list(corpus.encoder.label_ids.values())
    leads = []
    for example in ranking_examples(corpus, 40):
        half = len(example.numbers) // 2
        with torch.no_grad():
            ids = torch.tensor([(example.prompt + example.answer)[: example.number_places[half]]])
            logits = model(ids).logits[0, -1, labels]
        given, left = ([n - 1 for n in part] for part in (example.numbers[:half], example.numbers[half:]))
        leads.append(float(logits[left].mean() - logits[given].mean()))
    return float(np.mean(leads))


def test_the_last_heads_start_by_taking_away_the_numbers_that_were_given(
    untrained: tuple[LlamaForCausalLM, Corpus],
) -> None:
    model, corpus = untrained
    without = copy.deepcopy(model)
    attention: Any = without.model.layers[-1].self_attn
    with torch.no_grad():
        attention.o_proj.weight[:, -2 * attention.head_dim :] = 0.0
    assert lead_of_numbers_left(model, corpus) > lead_of_numbers_left(without, corpus) + 0.5


def test_too_few_heads_for_the_numbers_are_refused(film_dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=f"too few to look up, read and suppress {MAX_LABEL} numbers"):
        made_of(film_dataset, ModelSize(n_layers=1, n_heads=3, head_dim=32))


def ranking_examples(corpus: Corpus, n: int) -> list[Example]:
    rng = np.random.default_rng(1)
    return [corpus.ranking(rng) for _ in range(n)]


def test_every_number_and_title_of_an_answer_is_where_the_example_says(
    untrained: tuple[LlamaForCausalLM, Corpus],
) -> None:
    _, corpus = untrained
    examples = ranking_examples(corpus, 40)
    assert any(e.written_title_places for e in examples)
    for example in examples:
        tokens = example.prompt + example.answer
        assert [corpus.encoder.number_of[tokens[place]] for place in example.number_places] == example.numbers
        written = [tokens[place] for place in example.written_title_places]
        assert written in ([], [tokens[place] for place in example.title_places])


def test_training_on_one_batch_lowers_its_loss(film_dataset: Dataset) -> None:
    model, corpus = made_of(film_dataset, ModelSize(hidden_size=128, n_layers=2, intermediate_size=64))
    batch = ranking_examples(corpus, 6)
    losses = Losses(model, corpus.encoder, naming_layer=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    values = []
    for _ in range(25):
        loss = losses.answers(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.6 * values[0]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
