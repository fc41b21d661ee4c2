from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from promptailor.evals.baselines import vq_rec
from promptailor.evals.baselines.base import ItemScorer
from promptailor.evals.baselines.bm25 import BM25
from promptailor.evals.baselines.fitting import mean_ndcg, validation_cases
from promptailor.evals.baselines.registry import CLASSIC, BaselineInputs
from promptailor.evals.baselines.text_embedding import TextEmbedding
from promptailor.evals.baselines.titles import TitleEmbeddings, fingerprint
from promptailor.evals.baselines.transfer import TransferScorer, TransferSettings, foreign
from promptailor.evals.baselines.unisrec import UniSRec
from promptailor.evals.baselines.vq_rec import ProductQuantiser, VQRec
from promptailor.evals.datasets import Dataset, DatasetSpec
from promptailor.evals.metrics import chance
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import DataError

SMALL = TransferSettings(
    dimension=16, length=8, dropout=0.0, batch_users=16, users_per_source=200, validation_users_per_source=40,
    epochs=12, patience=12,
)  # fmt: skip
FILMS = (
    "Star Wars", "The Empire Strikes Back", "Star Wars: Attack of the Clones", "Toy Story", "Toy Story 2", "Amélie",
    "The Godfather", "It", "Heat", "Casino",
)  # fmt: skip


class WordEncoder:
    """Embeds a text as the mean of a vector per word, so that titles with common words are near each other."""

    dimension = 12

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        self.texts += texts
        return [self._embed(text) for text in texts]

    def _embed(self, text: str) -> list[float]:
        words = [hashlib.sha256(word.encode()).digest()[:4] for word in text.casefold().split()]
        vector = np.sum([np.random.default_rng(list(word)).normal(size=self.dimension) for word in words], axis=0)
        unit: list[float] = (vector / np.linalg.norm(vector)).tolist()
        return unit


def dataset_of(name: str, items: Sequence[str], sequences: dict[str, tuple[str, ...]]) -> Dataset:
    return Dataset(
        spec=DatasetSpec.model_validate({"name": name, "domain": "movies", "time": "order", "folder": name}),
        items={str(n): Item(item_id=str(n), title=title) for n, title in enumerate(items)},
        sequences=sequences,
        times={user: tuple(map(float, range(len(ids)))) for user, ids in sequences.items()},
    )


TASTES = ("wizard", "robot", "cowboy", "detective", "pirate", "vampire")


def domain(name: str, seed: int, n_users: int = 150) -> Dataset:
    """A domain whose users choose titles with one word of taste, under ids that mean nothing elsewhere."""
    titles = [f"{taste} {name}{n}" for n in range(12) for taste in TASTES]
    ids = sorted(range(len(titles)), key=lambda n: uniform("id", name, n))
    items = [titles[n] for n in ids]
    sequences = {}
    for user in range(n_users):
        taste = TASTES[int(uniform("taste", name, seed, user) * len(TASTES))]
        own = [str(n) for n, title in enumerate(items) if title.startswith(taste)]
        sequences[f"u{user}"] = tuple(sorted(own, key=lambda i: uniform("order", name, seed, user, i))[:8])
    return dataset_of(name, items, sequences)


def ask(items: Sequence[Item], history: Sequence[int], candidates: Sequence[int]) -> RankRequest:
    return RankRequest(
        user_id="u",
        history=tuple(items[n] for n in history),
        candidates=tuple(items[n] for n in candidates),
        domain="movies",
    )


def first(scorer: ItemScorer, request: RankRequest) -> str:
    (answer,) = scorer.rank([request])
    return next(item.title for item in request.candidates if item.item_id == answer.ranking[0])


@pytest.fixture(autouse=True)
def few_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catalogues are small here: with 256 codes per part every title would have codes of its own."""
    monkeypatch.setattr(vq_rec, "N_CENTROIDS", 8)


@pytest.fixture
def films() -> Dataset:
    return dataset_of("films", FILMS, {"u": ("0", "1", "2", "3")})


def test_bm25_and_text_embedding_put_the_film_of_the_same_series_first(films: Dataset, tmp_path: Path) -> None:
    items = list(films.items.values())
    scorers = BM25(films.items), TextEmbedding(TitleEmbeddings.of(films, WordEncoder(), tmp_path))
    for scorer in scorers:
        assert first(scorer, ask(items, [0], [5, 6, 2, 4])) == "Star Wars: Attack of the Clones"
        assert first(scorer, ask(items, [3], [5, 6, 2, 4])) == "Toy Story 2"


def test_bm25_reads_words_without_case_accents_and_stop_words_unless_there_is_nothing_else(films: Dataset) -> None:
    bm25 = BM25(films.items)
    assert bm25.words("The AMÉLIE, of 2") == ["amelie", "2"]
    assert bm25.words("It") == ["it"]
    items = list(films.items.values())
    # "The Godfather" and "The Empire Strikes Back" share an article, which says nothing.
    assert bm25.scores(ask(items, [6], [1, 8])) == [0.0, 0.0]


def test_bm25_scores_do_not_depend_on_the_other_candidates(films: Dataset) -> None:
    bm25, items = BM25(films.items), list(films.items.values())
    whole = bm25.scores(ask(items, [0, 3], range(10)))
    for n in range(10):
        assert bm25.scores(ask(items, [0, 3], [n])) == [whole[n]]
    assert bm25.scores(ask(items, [], [0, 1])) == [0.0, 0.0]
    stranger = [*items, Item(item_id="new", title="Star Wars")]
    assert bm25.scores(ask(stranger, [0, 10], [10, 2]))[0] == 0.0


def test_titles_are_encoded_once_and_kept(films: Dataset, tmp_path: Path) -> None:
    encoder, second = WordEncoder(), WordEncoder()
    made = TitleEmbeddings.of(films, encoder, tmp_path)
    loaded = TitleEmbeddings.of(films, second, tmp_path)
    assert set(FILMS) <= set(encoder.texts)
    assert not set(FILMS) & set(second.texts)
    assert made.item_ids == loaded.item_ids == tuple(sorted(films.items))
    assert made.matrix.tobytes() == loaded.matrix.tobytes()
    other = replace(films, items={**films.items, "0": Item(item_id="0", title="Another")})
    TitleEmbeddings.of(other, second, tmp_path)
    assert "Another" in second.texts


def test_encoders_are_told_apart() -> None:
    class Other(WordEncoder):
        def _embed(self, text: str) -> list[float]:
            return super()._embed(text)[::-1]

    assert fingerprint(WordEncoder()) == fingerprint(WordEncoder())
    assert fingerprint(WordEncoder()) != fingerprint(Other())


def test_the_quantiser_gives_like_titles_like_codes_and_rebuilds_what_it_was_fitted_to() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 12))
    text = np.array([centres[n % 6] + 0.01 * rng.normal(size=12) for n in range(600)], np.float32)
    quantiser = ProductQuantiser(12)
    quantiser.fit(text, rng)
    codes = quantiser(torch.from_numpy(text))
    n_codes = quantiser.n_codes
    assert codes.shape == (600, n_codes)
    assert torch.equal(codes // vq_rec.N_CENTROIDS, torch.arange(n_codes).expand(600, n_codes))
    assert torch.allclose(quantiser.rotation @ quantiser.rotation.T, torch.eye(12), atol=1e-4)
    parts = [quantiser.centroids[part][codes[:, part] % vq_rec.N_CENTROIDS] for part in range(n_codes)]
    rebuilt = torch.cat(parts, dim=1) @ quantiser.rotation.T
    assert (rebuilt - torch.from_numpy(text)).square().sum(dim=1).mean() < 0.05 * np.square(text).sum(axis=1).mean()


class SmallUniSRec(UniSRec):
    settings: ClassVar[TransferSettings] = SMALL


class SmallVQRec(VQRec):
    settings: ClassVar[TransferSettings] = SMALL


MODELS = [SmallUniSRec, SmallVQRec]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs, for what does not depend on how well a model has learned."""
    for model in MODELS:
        monkeypatch.setattr(model, "settings", SMALL.model_copy(update={"epochs": 2}))


def fit(model: type[TransferScorer], target: Dataset, models: Path, *others: Dataset, seed: int = 0) -> TransferScorer:
    return model.fit(target, others, encoder=WordEncoder(), seed=seed, models=models)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_taste_learned_in_one_domain_carries_over_to_another(model: type[TransferScorer], tmp_path: Path) -> None:
    target = domain("films", 1)
    scorer = fit(model, target, tmp_path, domain("games", 2))
    assert mean_ndcg(scorer, validation_cases(target)) > chance(10)["ndcg@10"] + 0.15


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_learned_from_the_target(model: type[TransferScorer], tmp_path: Path) -> None:
    target, other = domain("films", 1), domain("games", 2)
    # The same catalogue with other users, and other choices.
    changed = replace(target, sequences=domain("films", 7, 90).sequences, times=domain("films", 7, 90).times)
    request = validation_cases(target)[0].request
    scores = [fit(model, t, tmp_path / str(n), other).scores(request) for n, t in enumerate((target, changed))]
    assert scores[0] == scores[1]
    tensors = [next((tmp_path / str(n)).glob(f"{model.name}-*/model.safetensors")).read_bytes() for n in range(2)]
    assert tensors[0] == tensors[1]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_held_out_items_of_the_sources_are_not_learned(
    model: type[TransferScorer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without selection, which reads second-to-last items of the sources' validation users.
    unselected = SMALL.model_copy(update={"validation_users_per_source": 0, "epochs": 2})
    monkeypatch.setattr(model, "settings", unselected)
    target, other = domain("films", 1), domain("games", 2)
    changed = replace(other, sequences={user: (*ids[:-2], "x", "y") for user, ids in other.sequences.items()})
    request = validation_cases(target)[0].request
    before, after = (fit(model, target, tmp_path / str(n), o) for n, o in enumerate((other, changed)))
    assert before.scores(request) == after.scores(request)
    earlier = replace(other, sequences={user: ids[1:] for user, ids in other.sequences.items()})
    assert fit(model, target, tmp_path / "2", earlier).scores(request) != before.scores(request)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_kept_and_scores_one_user_alone_as_in_a_catalogue(
    model: type[TransferScorer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = domain("films", 1), domain("games", 2)
    made = fit(model, target, tmp_path, other)
    monkeypatch.setattr(model, "_pretrain", None)  # a second fit would fail
    loaded = fit(model, target, tmp_path, other)
    request = validation_cases(target)[0].request
    whole = request.model_copy(update={"candidates": tuple(target.items.values())})
    scores = dict(zip(target.items, loaded.scores(whole), strict=True))
    assert made.scores(request) == loaded.scores(request) == [scores[item.item_id] for item in request.candidates]
    assert len(set(made.scores(request))) > 1
    cold = request.model_copy(update={"history": ()})
    assert set(loaded.scores(cold)) == {0.0}


def test_other_editions_of_the_targets_files_are_no_source() -> None:
    target, other = domain("films", 1, 10), domain("games", 2, 10)
    edition = replace(target, spec=target.spec.model_copy(update={"name": "films-all", "folder": "data/Films"}))
    second = replace(other, spec=other.spec.model_copy(update={"name": "zz-games-again"}))
    copy = replace(target, spec=target.spec.model_copy(update={"name": "copy", "folder": "elsewhere"}))
    assert foreign(target, [second, edition, other, copy]) == [other]


@pytest.mark.parametrize("name", ["unisrec", "vq-rec"])
def test_a_model_without_another_data_set_says_so(name: str, tmp_path: Path) -> None:
    inputs = BaselineInputs(
        dataset=domain("films", 1, 10), seed=0, encoder=WordEncoder(), models=tmp_path, others=lambda: []
    )
    with pytest.raises(DataError, match="needs another data set than films"):
        CLASSIC[name](inputs)


@pytest.mark.parametrize("name", ["bm25", "text-embedding"])
def test_text_baselines_are_in_the_registry(name: str, tmp_path: Path) -> None:
    inputs = BaselineInputs(
        dataset=domain("films", 1, 30), seed=0, encoder=WordEncoder(), models=tmp_path, others=lambda: []
    )
    scorer = CLASSIC[name](inputs)
    assert scorer.name == name
    assert mean_ndcg(scorer, validation_cases(inputs.dataset)) > chance(10)["ndcg@10"] + 0.2
