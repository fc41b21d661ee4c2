"""Title embeddings of whole catalogues: all that a transferable recommender knows of an item."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from promptailor.evals.baselines.fitting import Fit, FitLog, ProgressBar, kept_fit, no_progress
from promptailor.evals.datasets import Dataset
from promptailor.prompts.llm import TextEncoder

Array = NDArray[np.float32]
PROBE = "a title"
"""A text whose embedding tells one encoder from another."""
CHUNK = 256
"""Titles encoded between two moves of the progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleEmbeddings:
    """One vector of unit length per item of a catalogue."""

    item_ids: tuple[str, ...]
    matrix: Array
    """Shape (n_items, dim), rows in the order of `item_ids`."""

    @classmethod
    def of(
        cls, dataset: Dataset, encoder: TextEncoder, models: Path, progress: ProgressBar = no_progress
    ) -> TitleEmbeddings:
        """Take a data set's title embeddings from the folder of fitted models, or encode them and keep them there.

        One title takes some 20 ms on a slow core, so a catalogue of 16,000 takes five minutes, once.

        Raises:
            MissingExtraError: titles are new and sentence-transformers is not installed.
            CheckpointError: the folder cannot be written.
        """
        item_ids = tuple(sorted(dataset.items))
        titles = [dataset.items[item_id].title for item_id in item_ids]
        key = {"titles": hashlib.sha256(json.dumps(titles).encode()).hexdigest(), "encoder": fingerprint(encoder)}

        def fit() -> Fit:
            started = time.perf_counter()
            rows: list[list[float]] = []
            with progress(f"encoding titles of {dataset.name}", len(titles)) as advance:
                for start in range(0, len(titles), CHUNK):
                    rows += encoder.encode(titles[start : start + CHUNK])
                    advance(len(rows) - start)
            log = FitLog(best_epoch=1, validation=(), seconds=round(time.perf_counter() - started, 1))
            return Fit(tensors={"titles": np.array(rows, np.float32)}, log=log)

        return cls(item_ids=item_ids, matrix=kept_fit(models, "titles", key, fit).tensors["titles"])


def fingerprint(encoder: TextEncoder) -> str:
    """Tell an encoder by the signs of what it makes of one text: the same on every machine, another for every model."""
    signs = np.array(encoder.encode([PROBE])[0]) > 0
    return f"{len(signs)}-{hashlib.sha256(np.packbits(signs).tobytes()).hexdigest()[:16]}"
