"""A tiny embedded model with random weights, and the encoder of a handful of titles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from promptailor.evals.dataset_spec import DatasetSpec
from promptailor.evals.datasets import Dataset
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.domain import Item, RankRequest, UserProfile
from promptailor.prompts.patterns import load_catalogue

TITLES = [f"Film {chr(ord('A') + n)}" for n in range(24)]


@pytest.fixture(scope="session")
def random_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder whose model has never been trained."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from promptailor.app.backends.embedded.tasks import load_tasks
    from promptailor.app.backends.embedded.tokenizer import Vocabulary, build_tokenizer
    from promptailor.app.backends.embedded.vocabulary import prompt_phrases, prompt_words

    folder = tmp_path_factory.mktemp("random-lm")
    catalogue = load_catalogue()
    tokenizer = build_tokenizer(
        Vocabulary(
            phrases=prompt_phrases(catalogue, load_tasks(), "movies"),
            words=prompt_words(catalogue, load_tasks(), "movies"),
            lines=tuple(TITLES),
        )
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def film_prompt() -> Callable[..., AssembledPrompt]:
    """Assembles the manual prompt of a user with `n_history` films and `n_candidates` others."""
    catalogue = load_catalogue()

    def prompt(user: str, n_history: int = 5, n_candidates: int = 10) -> AssembledPrompt:
        films = [Item(item_id=str(n), title=title) for n, title in enumerate(TITLES)]
        request = RankRequest(
            user_id=user,
            history=tuple(films[-n_history:]) if n_history else (),
            candidates=tuple(films[:n_candidates]),
            domain="movies",
        )
        return assemble(request, catalogue.manual_prompt, catalogue, seed=0)

    return prompt


@pytest.fixture(scope="session")
def film_dataset() -> Dataset:
    """Forty users who walk through one of three genres of twenty films, with years and profiles."""
    genres = ("Comedy", "Drama", "Sci-Fi")
    items = {f"i{n}": Item(item_id=f"i{n}", title=f"Film {n}", categories=(genres[n // 20],)) for n in range(60)}
    sequences = {
        f"u{user}": tuple(f"i{20 * (user % 3) + (user + step) % 20}" for step in range(8 + user % 9))
        for user in range(40)
    }
    return Dataset(
        spec=DatasetSpec(name="films", domain="movies", time="order"),
        items=items,
        sequences=sequences,
        times={user: tuple(map(float, range(len(sequence)))) for user, sequence in sequences.items()},
        profiles={user: UserProfile(gender="female", age="24") for user in sequences},
        years={f"i{n}": 1960 + n for n in range(60)},
    )


@pytest.fixture(scope="session")
def trained_lm(film_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished folder of a tiny model after one step of each training stage."""
    pytest.importorskip("transformers")
    from promptailor.app.backends.embedded.train import TrainingConfig, train_lm

    folder = tmp_path_factory.mktemp("models") / "films"
    config = TrainingConfig(
        hidden_size=96, n_layers=2, n_heads=4, intermediate_size=32, title_steps=1, steps=1, batch_size=2
    )
    train_lm(film_dataset, load_catalogue(), folder, config=config)
    return folder
