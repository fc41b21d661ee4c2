"""VQ-Rec (Hou et al. 2023, arXiv 2210.12316): titles become discrete codes, and codes have the vectors that transfer.

Departures from the paper, besides those of `TransferNetwork.loss`:

* pre-trained on at most four small data sets, 500 users each, for minutes on one core, instead of five large
  Amazon domains on GPUs; code vectors of 64 numbers instead of 300, and MiniLM's embeddings of titles instead of BERT's
  of descriptions, brands and categories;
* the target's titles are quantised by the rotation and the centroids of the other data sets, so that a code means the
  same everywhere; the paper quantises each target anew and then learns on it which code is which, which is training on
  the target;
* the transformer is the one of our SASRec, normalised before instead of after attention;
* the epoch is the best on the other data sets' validation users, not the last.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from promptailor.evals.baselines.sasrec import INITIAL_SD
from promptailor.evals.baselines.titles import Array
from promptailor.evals.baselines.transfer import TransferNetwork, TransferScorer, TransferSettings

N_CODES = 32
"""Parts a title's embedding is cut into, each with a code of its own."""
N_CENTROIDS = 256
"""Codes per part."""
REPLACED = 0.75
"""Share of codes that a semi-synthetic negative has at random, as in the authors' code."""
QUANTISED = 8_000
"""Titles that the quantiser is fitted to, at most."""
ROTATIONS = 8
LLOYD_STEPS = 3
"""Of k-means, between two rotations."""
CHUNK = 4_096
"""Titles quantised at once."""


class ProductQuantiser(nn.Module):
    """Optimised product quantisation (Ge et al. 2013): a rotation, then k-means in each part of the vector."""

    def __init__(self, text_dimension: int) -> None:
        super().__init__()
        self.n_codes = math.gcd(N_CODES, text_dimension)
        self.rotation: Tensor
        self.centroids: Tensor
        self.register_buffer("rotation", torch.eye(text_dimension))
        self.register_buffer("centroids", torch.zeros(self.n_codes, N_CENTROIDS, text_dimension // self.n_codes))

    def fit(self, text: Array, rng: np.random.Generator) -> None:
        """Alternate between centroids and the rotation that brings the embeddings nearest to them."""
        rows = rng.permutation(len(text))[:QUANTISED]
        sample = torch.from_numpy(text[rows])
        parts = self._parts(sample)
        starts = torch.from_numpy(rng.integers(len(rows), size=(self.n_codes, N_CENTROIDS)))
        self.centroids = torch.stack([part[start] for part, start in zip(parts, starts, strict=True)])
        for _ in range(ROTATIONS):
            parts = self._parts(sample)
            for _ in range(LLOYD_STEPS):
                self.centroids = _lloyd(parts, self.centroids)
            nearest = torch.cat([c[i] for c, i in zip(self.centroids, _nearest(parts, self.centroids), strict=True)], 1)
            left, _, right = torch.linalg.svd(sample.T @ nearest)  # the orthogonal Procrustes problem
            self.rotation = left @ right
        self.centroids = _lloyd(self._parts(sample), self.centroids)

    def forward(self, text: Tensor) -> Tensor:
        """Return codes of shape (n, n_codes), each numbered apart from those of the other parts."""
        chunks = [_nearest(self._parts(chunk), self.centroids).T for chunk in torch.split(text, CHUNK)]
        return torch.cat(chunks) + N_CENTROIDS * torch.arange(self.n_codes)

    def _parts(self, text: Tensor) -> Tensor:
        """Rotate embeddings and cut them, shape (n_codes, n, dim of a part)."""
        return (text @ self.rotation).view(len(text), self.n_codes, -1).transpose(0, 1)


def _nearest(parts: Tensor, centroids: Tensor) -> Tensor:
    """Return the nearest centroid of each part of each vector, shape (n_codes, n)."""
    found = [(c.square().sum(dim=1) - 2 * part @ c.T).argmin(dim=1) for part, c in zip(parts, centroids, strict=True)]
    return torch.stack(found)


def _lloyd(parts: Tensor, centroids: Tensor) -> Tensor:
    """Move every centroid to the mean of the vectors that are nearest to it; one that has none stays."""
    moved = []
    for part, old, nearest in zip(parts, centroids, _nearest(parts, centroids), strict=True):
        counts = torch.bincount(nearest, minlength=len(old))[:, None]
        sums = torch.zeros_like(old).index_add_(0, nearest, part)
        moved.append(torch.where(counts > 0, sums / counts.clamp(min=1), old))
    return torch.stack(moved)


class VQRecNetwork(TransferNetwork):
    """A transformer over the mean of the vectors of a title's codes."""

    def __init__(self, settings: TransferSettings, text_dimension: int) -> None:
        super().__init__(settings, text_dimension)
        self.quantiser = ProductQuantiser(text_dimension)
        self.codes = nn.Embedding(self.quantiser.n_codes * N_CENTROIDS, settings.dimension)
        nn.init.normal_(self.codes.weight, std=INITIAL_SD)

    def learn_titles(self, text: Array, rng: np.random.Generator) -> None:
        """Fit the quantiser."""
        self.quantiser.fit(text, rng)

    def read(self, text: Array) -> Tensor:
        """Quantise title embeddings."""
        codes: Tensor = self.quantiser(torch.from_numpy(text))
        return codes

    def represent(self, features: Tensor) -> Tensor:
        """Return the mean vector of each item's codes."""
        return F.embedding_bag(features, self.codes.weight, mode="mean")

    def more_negatives(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Return the cosine with one semi-synthetic item: the next one, most of its codes drawn at random."""
        first = N_CENTROIDS * torch.arange(wanted.shape[1])
        drawn = torch.randint(N_CENTROIDS, wanted.shape) + first
        replaced = torch.rand(wanted.shape) < REPLACED
        vectors = self.represent(torch.where(replaced, drawn, wanted))
        return (outputs * F.normalize(vectors, dim=-1)).sum(dim=-1, keepdim=True)


class VQRec(TransferScorer):
    """VQ-Rec without any training on the target: quantiser, code vectors and transformer are the other data sets'."""

    name = "vq-rec"
    network_type = VQRecNetwork
    settings: ClassVar[TransferSettings] = TransferSettings()
