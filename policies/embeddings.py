"""Item embeddings at serving time: numpy only, trained by `policies.lightgcn`.

A user is the degree-normalised mean of the items in the history, known and new users alike. Item and user vectors are
centred and scaled to unit variance, so that networks can read them and zero means "nothing known".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from promptailor.prompts.domain import Item
from promptailor.prompts.errors import CheckpointError, MissingExtraError
from promptailor.prompts.llm import TextEncoder

Array = NDArray[np.float32]
FloatArray = NDArray[np.floating]

SCHEMA_VERSION = 1
MANIFEST, TENSORS = "manifest.json", "embeddings.safetensors"
MAX_PROJECTION_ITEMS = 1_000
"""Titles encoded to learn the projection: the most interacted items, whose vectors are learned best."""
RIDGE_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
MIN_USER_SPREAD = 1e-6
"""Standard deviation between users, that of items being 1, below which all users are one and none is scaled up."""


class ItemEmbeddings:
    """Vectors of the known items, and of any other item through its title."""

    def __init__(
        self,
        item_ids: Sequence[str],
        tensors: Mapping[str, FloatArray],
        *,
        encoder: TextEncoder | None = None,
    ) -> None:
        """Wrap stored tensors; `fit` makes them from raw vectors.

        Args:
            item_ids: known items, in row order.
            tensors: `vectors` (n, dim), `weights` (n,), `user_mean` (dim,), `user_scale` (1,) and, where titles can be
                projected, `projection` (text dim + 1, dim) whose last row is the intercept.
            encoder: embeds the titles of unknown items; without one they get the mean vector, zero.
        """
        self.item_ids = tuple(item_ids)
        self.encoder = encoder
        self._tensors = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
        self._vectors, self._weights = self._tensors["vectors"], self._tensors["weights"]
        self._unknown_weight = float(np.median(self._weights))
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}

    @classmethod
    def fit(
        cls, item_ids: Sequence[str], raw: Array, degrees: NDArray[np.int64], sequences: Mapping[str, Sequence[str]]
    ) -> ItemEmbeddings:
        """Centre and scale raw LightGCN vectors.

        Args:
            item_ids: known items, in row order.
            raw: shape (n, dim).
            degrees: shape (n,); users per item in the training graph.
            sequences: training histories; they fix the mean and the scale of user vectors.
        """
        vectors = (raw - raw.mean(axis=0)) / max(float(raw.std(axis=0).mean()), 1e-12)
        identity = {"user_mean": np.zeros(raw.shape[1], np.float32), "user_scale": np.ones(1, np.float32)}
        unscaled = cls(item_ids, {"vectors": vectors, "weights": degrees.astype(np.float32) ** -0.5, **identity})
        histories = [list(dict.fromkeys(ids)) for ids in sequences.values() if ids]
        users = np.stack([unscaled._user(ids, [None] * len(ids)) for ids in histories])
        spread = float(users.std(axis=0).mean())
        scale = 1.0 / spread if spread > MIN_USER_SPREAD else 1.0
        fitted = {"user_mean": users.mean(axis=0), "user_scale": np.full(1, scale, np.float32)}
        return cls(item_ids, {**unscaled._tensors, **fitted})

    def fit_titles(self, items: Mapping[str, Item], encoder: TextEncoder) -> ItemEmbeddings:
        """Return embeddings that can also place unknown items, through a ridge regression from title to vector.

        The penalty is the one with the smallest leave-one-out error, so titles that say nothing project to the mean.
        """
        by_degree = np.argsort(self._weights, kind="stable")
        rows = [int(row) for row in by_degree if self.item_ids[row] in items][:MAX_PROJECTION_ITEMS]
        if len(rows) < 2:
            return ItemEmbeddings(self.item_ids, self._tensors, encoder=encoder)
        titles = np.array(encoder.encode([items[self.item_ids[row]].title for row in rows]), np.float64)
        projection = _ridge(titles, self._vectors[rows].astype(np.float64))
        return ItemEmbeddings(self.item_ids, {**self._tensors, "projection": projection}, encoder=encoder)

    @property
    def dimension(self) -> int:
        """Length of an item's and of a user's vector."""
        return int(self._vectors.shape[1])

    @property
    def digest(self) -> str:
        """Hex digest of everything that is saved."""
        digest = hashlib.sha256("\0".join(self.item_ids).encode())
        for name in sorted(self._tensors):
            digest.update(f"\0{name}{self._tensors[name].shape}".encode() + self._tensors[name].tobytes())
        return digest.hexdigest()[:16]

    def matrix(self, items: Sequence[Item]) -> Array:
        """Return the items' vectors, shape (n, dim); an unknown item's comes from its title, or is zero."""
        return self._matrix([item.item_id for item in items], [item.title for item in items])

    def user(self, history: Sequence[Item]) -> Array:
        """Return u, shape (dim,): the mean over the distinct items, each weighted by 1 / sqrt(degree).

        These are the weights LightGCN's own propagation gives a user's items, up to a factor per user. An empty history
        gives zero, the mean user.
        """
        distinct = list({item.item_id: item.title for item in history}.items())
        return self._user([item_id for item_id, _ in distinct], [title for _, title in distinct])

    def _user(self, item_ids: Sequence[str], titles: Sequence[str | None]) -> Array:
        if not item_ids:
            return np.zeros(self.dimension, np.float32)
        rows = [self._rows.get(item_id) for item_id in item_ids]
        weights = np.array([self._unknown_weight if row is None else self._weights[row] for row in rows], np.float32)
        mean = weights @ self._matrix(item_ids, titles) / weights.sum()
        scaled: Array = (mean - self._tensors["user_mean"]) * self._tensors["user_scale"]
        return scaled

    def _matrix(self, item_ids: Sequence[str], titles: Sequence[str | None]) -> Array:
        matrix = np.zeros((len(item_ids), self.dimension), np.float32)
        for place, (item_id, title) in enumerate(zip(item_ids, titles, strict=True)):
            row = self._rows.get(item_id)
            matrix[place] = self._from_title(title) if row is None else self._vectors[row]
        return matrix

    def _from_title(self, title: str | None) -> Array:
        projection = self._tensors.get("projection")
        if projection is None or self.encoder is None or title is None:
            return np.zeros(self.dimension, np.float32)
        text = np.array([*self.encoder.encode([title])[0], 1.0], np.float32)
        projected: Array = text @ projection
        return projected

    def save(self, folder: Path) -> None:
        """Write `embeddings.safetensors` and, last, its `manifest.json`; the folder should hold nothing else."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / TENSORS, _safetensors().numpy.save(self._tensors))
        manifest = {"schema_version": SCHEMA_VERSION, "digest": self.digest, "item_ids": self.item_ids}
        _write(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path, *, encoder: TextEncoder | None = None) -> ItemEmbeddings:
        """Read what `save` wrote; raises `CheckpointError` where it is missing, damaged or of another schema."""
        safetensors = _safetensors()
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            tensors = safetensors.numpy.load((folder / TENSORS).read_bytes())
            version, digest = manifest["schema_version"], manifest["digest"]
            loaded = cls(manifest["item_ids"], tensors, encoder=encoder)
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise CheckpointError(f"item embeddings in {folder}: {reason}; delete the folder and train anew") from None
        if version != SCHEMA_VERSION or digest != loaded.digest:
            raise CheckpointError(f"item embeddings in {folder}: changed since saved; delete the folder and train anew")
        return loaded


def _ridge(inputs: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a ridge regression with the penalty of least leave-one-out error.

    Returns:
        Shape (n_inputs + 1, n_targets); the last row is the intercept.
    """
    input_mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
    left, singular, right = np.linalg.svd(inputs - input_mean, full_matrices=False)
    rotated = left.T @ (targets - target_mean)

    def left_out_error(penalty: float) -> float:
        shrink = singular**2 / (singular**2 + penalty)
        residuals = targets - target_mean - left @ (shrink[:, None] * rotated)
        leverage = (left**2) @ shrink + 1.0 / len(inputs)
        return float(np.mean((residuals / (1.0 - leverage)[:, None]) ** 2))

    penalty = min(RIDGE_PENALTIES, key=left_out_error)
    coefficients = right.T @ ((singular / (singular**2 + penalty))[:, None] * rotated)
    return np.vstack([coefficients, target_mean - input_mean @ coefficients])


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy  # noqa: PLC0415 - optional extra; the embeddings themselves need numpy only
    except ImportError:
        raise MissingExtraError("saving and loading item embeddings", "local") from None
    return safetensors
