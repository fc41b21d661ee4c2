"""Models trained on pairs of a chosen and another item: BPR-MF and LightGCN, one with layers and one without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from promptailor.evals.baselines.base import VectorScorer
from promptailor.evals.baselines.fitting import (
    Fit,
    ProgressBar,
    Tensors,
    fit_epochs,
    kept_fit,
    no_progress,
    validation_cases,
)
from promptailor.evals.datasets import Dataset
from promptailor.prompts.domain import Model, RankRequest
from promptailor.prompts.errors import MissingExtraError


class PairwiseSettings(Model):
    """How a pairwise model is trained."""

    n_layers: int
    """Rounds of propagation; 0 for matrix factorisation."""
    dimension: int = 64
    learning_rate: float
    l2_penalty: float
    batch_size: int | None = None
    """None for as many interactions as the size of the graph asks for."""
    epochs: int
    """The most epochs."""
    patience: int
    """Epochs without a gain on validation users before training stops."""


class PairwiseScorer(VectorScorer):
    """Candidates by user vector times item vector; users without training interactions get every known item alike.

    Test users are in training with all but their last two items: their vectors are learned, never folded in.
    """

    name: str
    settings: ClassVar[PairwiseSettings]

    def __init__(self, user_ids: Sequence[str], item_ids: Sequence[str], tensors: Tensors) -> None:
        """Wrap vectors: `users`, shape (n_users, dim), and `items`, shape (n_items, dim)."""
        super().__init__(item_ids, tensors["items"])
        self._users = {user_id: row for row, user_id in enumerate(user_ids)}
        self._user_vectors = tensors["users"]

    def query(self, request: RankRequest) -> NDArray[np.float32] | None:
        """Return the user's vector."""
        row = self._users.get(request.user_id)
        return None if row is None else self._user_vectors[row]

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, models: Path, progress: ProgressBar = no_progress) -> Self:
        """Fit on the training interactions with early stopping, or take the model that was kept.

        Args:
            dataset: its `training_sequences` are fitted; second-to-last items of validation users select the epoch.
            seed: seeds initial vectors, order and negatives.
            models: folder that fitted models are kept in.
            progress: shows a bar.

        Raises:
            MissingExtraError: torch is not installed.
            DataError: there is no interaction to learn from.
            CheckpointError: the folder cannot be written.
        """
        # By user id: the order of a data set's users is no part of its digest.
        sequences = {user: items for user, items in sorted(dataset.training_sequences().items()) if items}
        item_ids = sorted({item_id for items in sequences.values() for item_id in items})
        key: dict[str, JsonValue] = {"dataset": dataset.digest, "seed": seed, "settings": cls.settings.model_dump()}
        kept = kept_fit(models, cls.name, key, lambda: cls._fit(dataset, sequences, seed, progress))
        return cls(list(sequences), item_ids, kept.tensors)

    @classmethod
    def _fit(cls, dataset: Dataset, sequences: Mapping[str, Sequence[str]], seed: int, progress: ProgressBar) -> Fit:
        try:
            import torch  # noqa: PLC0415 - an extra; fitted models are scored without it

            from promptailor.policies.lightgcn import LightGCN, bpr_epochs, interaction_graph  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError(cls.name, "local") from error
        settings = cls.settings
        edges, item_ids = interaction_graph(sequences)
        model = LightGCN(
            edges,
            len(sequences),
            len(item_ids),
            dimension=settings.dimension,
            n_layers=settings.n_layers,
            generator=torch.Generator().manual_seed(seed),
        )
        training = bpr_epochs(
            model,
            edges,
            np.random.default_rng(seed),
            learning_rate=settings.learning_rate,
            l2_penalty=settings.l2_penalty,
            batch_size=settings.batch_size,
        )

        def vectors() -> Tensors:
            with torch.no_grad():
                users, items = model()
            return {"users": users.numpy().copy(), "items": items.numpy().copy()}

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more are slower on a busy machine, and sum in another order
        try:
            with progress(f"fitting {cls.name}", settings.epochs) as advance:
                return fit_epochs(
                    training,
                    vectors,
                    lambda tensors: cls(list(sequences), item_ids, tensors),
                    validation_cases(dataset),
                    epochs=settings.epochs,
                    patience=settings.patience,
                    advance=advance,
                )
        finally:
            torch.set_num_threads(threads)
