"""UniSRec (Hou et al. 2022, arXiv 2206.05941): sequences of whitened titles, pre-trained on other domains.

Departures from the paper, besides those of `TransferNetwork.loss`:

* pre-trained on at most four small data sets, 500 users each, for minutes on one core, instead of five large
  Amazon domains on GPUs; vectors of 64 numbers instead of 300, and MiniLM's embeddings of titles instead of BERT's of
  descriptions, brands and categories;
* the second view of a sequence drops items only: dropping words would mean to encode every title again;
* the transformer is the one of our SASRec, normalised before instead of after attention;
* the epoch is the best on the other data sets' validation users, not the last.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from promptailor.evals.baselines.sasrec import INITIAL_SD
from promptailor.evals.baselines.titles import Array
from promptailor.evals.baselines.transfer import NO_ITEM, TransferNetwork, TransferScorer, TransferSettings

N_EXPERTS = 8
TEXT_DROPOUT = 0.2
LEAST_NOISE = 1e-2
"""Of the gates, while training."""
ITEM_DROP = 0.2
"""Share of a sequence's items that its second view lacks."""
SEQUENCE_WEIGHT = 1e-3
"""Of the sequence-to-sequence loss."""


class Whitening(nn.Module):
    """Experts that shift and project a title's embedding, mixed by noisy gates (the paper's equations 1 to 3)."""

    def __init__(self, text_dimension: int, dimension: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(TEXT_DROPOUT)
        self.shift = nn.Parameter(torch.zeros(N_EXPERTS, text_dimension))
        self.project = nn.Parameter(torch.randn(N_EXPERTS, text_dimension, dimension) * INITIAL_SD)
        self.gate = nn.Parameter(torch.zeros(text_dimension, N_EXPERTS))
        self.noise = nn.Parameter(torch.zeros(text_dimension, N_EXPERTS))

    def forward(self, text: Tensor) -> Tensor:
        """Map embeddings of shape (n, text dim) to item vectors of shape (n, dim)."""
        logits = text @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(text @ self.noise) + LEAST_NOISE)
        # One mask for all experts, where the authors' code draws one for each.
        projected = torch.einsum("nt,etd->ned", self.dropout(text), self.project)
        shifted = projected - torch.einsum("et,etd->ed", self.shift, self.project)
        return torch.einsum("ne,ned->nd", logits.softmax(dim=-1), shifted)


class UniSRecNetwork(TransferNetwork):
    """A transformer over whitened titles."""

    def __init__(self, settings: TransferSettings, text_dimension: int) -> None:
        super().__init__(settings, text_dimension)
        self.whitening = Whitening(text_dimension, settings.dimension)

    def learn_titles(self, text: Array, rng: np.random.Generator) -> None:
        """Nothing: whitening is learned by gradient."""

    def read(self, text: Array) -> Tensor:
        """Return the embeddings as they are."""
        return torch.from_numpy(text)

    def represent(self, features: Tensor) -> Tensor:
        """Whiten title embeddings."""
        vectors: Tensor = self.whitening(features)
        return vectors

    def more_loss(self, vectors: Tensor, places: Tensor, ends: Tensor) -> Tensor:
        """Return the sequence-to-sequence loss: a sequence is nearer to its own second view than to another user's."""
        histories = [row[row != NO_ITEM][:-1] for row in places]
        views = [rows[_keep(len(rows))] for rows in histories]
        states = self.states(vectors[torch.nn.utils.rnn.pad_sequence(views, batch_first=True)])
        last = states[torch.arange(len(views)), torch.tensor([len(rows) - 1 for rows in views])]
        cosines = F.normalize(ends, dim=-1) @ F.normalize(last, dim=-1).T
        return SEQUENCE_WEIGHT * F.cross_entropy(cosines / self.temperature, torch.arange(len(views)))


def _keep(n: int) -> Tensor:
    """Draw which items of a sequence its second view keeps: at least one."""
    keep = torch.rand(n) >= ITEM_DROP
    keep[int(torch.randint(n, ()))] = True
    return keep


class UniSRec(TransferScorer):
    """UniSRec without any training on the target: whitening and transformer are those of the other data sets."""

    name = "unisrec"
    network_type = UniSRecNetwork
    settings: ClassVar[TransferSettings] = TransferSettings()
