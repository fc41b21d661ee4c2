"""The state s_t that every agent sees: the user, the last prompt and the model's last ranking (RPP, Eq. 3 and 4).

`full` (default) is s_t = [u; W enc(sentences); GRU(ranking); l_t; t]. `paper` is s_0 = u, then s_t = W enc(p_t) +
GRU(ranking), in which the user vanishes after s_0 and a 256-token encoder cuts the prompt before its output format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.types import Pooling, StateInputs, StateKind
from promptailor.prompts.llm import TextEncoder
from promptailor.prompts.patterns import Catalogue

CONTEXT_DIM = 32
"""Width of W's and of the GRU's output in the full state."""
CONTEXT_SCALE = 0.1
"""What W and the GRU say enters the full state at a tenth: it changes with every prompt and mostly is noise, while u
tells users apart; learning can raise it."""


@dataclass(frozen=True, slots=True)
class StateFeatures:
    """What states are computed from, as tensors; nothing in here is learned. B rows, rankings padded to M items."""

    user: Tensor
    """u, shape (B, dim)."""
    text: Tensor
    """Encoded prompt, shape (B, text dim): the mean over its sentences (full), or the whole prompt's (paper)."""
    ranking: Tensor
    """Item vectors of the last ranking, best first, shape (B, M, dim)."""
    n_ranked: Tensor
    """Items in the last ranking, 0 at t = 0; shape (B,), integer."""
    counters: Tensor
    """l_{t-1}, the cap min(|H|, L_max), t, and the known profile fields as a bit mask; shape (B, 4)."""

    def __getitem__(self, rows: Tensor) -> StateFeatures:
        """Select rows."""
        return StateFeatures(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[StateFeatures]) -> StateFeatures:
        """Stack rows, padding rankings to the longest."""
        longest = max(part.ranking.shape[1] for part in parts)
        padded = [nn.functional.pad(part.ranking, (0, 0, 0, longest - part.ranking.shape[1])) for part in parts]
        return StateFeatures(
            user=torch.cat([part.user for part in parts]),
            text=torch.cat([part.text for part in parts]),
            ranking=torch.cat(padded),
            n_ranked=torch.cat([part.n_ranked for part in parts]),
            counters=torch.cat([part.counters for part in parts]),
        )


class StateReader:
    """Looks up the features of a state: embeddings of user, sentences and ranked items."""

    def __init__(self, kind: StateKind, embeddings: ItemEmbeddings, encoder: TextEncoder, catalogue: Catalogue) -> None:
        """Keep the sources; the catalogue says how much history a prompt may show, and which profile fields."""
        self.kind = kind
        self.embeddings = embeddings
        self.encoder = encoder
        self.max_length = catalogue.history_records.max_length
        self.profile = catalogue.user_profile

    def read(self, inputs: StateInputs) -> StateFeatures:
        """Return the features of one state: one row, its ranking unpadded."""
        texts = inputs.sentences if self.kind == "full" else (inputs.prompt,) if inputs.prompt else ()
        encoded = np.mean(self.encoder.encode(texts), axis=0) if texts else np.zeros(self.encoder.dimension)
        cap = min(len(inputs.history), self.max_length)
        counters = (inputs.history_length, cap, inputs.step, self.profile.bits(inputs.profile))
        return StateFeatures(
            user=torch.from_numpy(self.embeddings.user(inputs.history))[None],
            text=torch.tensor(encoded, dtype=torch.float32)[None],
            ranking=torch.from_numpy(self.embeddings.matrix(inputs.ranking))[None],
            n_ranked=torch.tensor([len(inputs.ranking)]),
            counters=torch.tensor([counters], dtype=torch.float32),
        )


class StateEncoder(nn.Module):
    """Turns features into states; W and the GRU learn from the actors' and the critics' losses."""

    def __init__(self, kind: StateKind, pooling: Pooling, *, dimension: int, text_dimension: int) -> None:
        """Build W and the GRU.

        Args:
            kind: which state.
            pooling: how the ranked items are read; `mean` is the paper's ablation, `none` does not read them.
            dimension: length of user and item embeddings.
            text_dimension: length of the sentence encoder's embeddings.
        """
        super().__init__()
        self.kind, self.pooling = kind, pooling
        # The paper's state is a sum, so W and the GRU must be as wide as u.
        width = CONTEXT_DIM if kind == "full" else dimension
        self.project = nn.Linear(text_dimension, width, bias=False)
        self.gru = nn.GRU(dimension, width, batch_first=True) if pooling == "gru" else None
        pooled = width if pooling == "gru" else dimension
        self.state_dim = dimension + width + pooled + 3 if kind == "full" else dimension

    def forward(self, features: StateFeatures) -> Tensor:
        """Return states, shape (B, state_dim); a row does not depend on the others."""
        prompt, ranking = self.project(features.text), self._pool(features)
        if self.kind == "paper":
            first = features.counters[:, 2:3] == 0
            return torch.where(first, features.user, prompt + ranking)
        length, step = features.counters[:, :1], features.counters[:, 2:3]
        # Two scales of length, since one interaction more says much after one and little after twenty.
        counters = [length / 8 - 0.5, torch.log2(1 + length) / 2 - 1, step / 4 - 0.25]
        return torch.cat([features.user, CONTEXT_SCALE * prompt, CONTEXT_SCALE * ranking, *counters], dim=1)

    def _pool(self, features: StateFeatures) -> Tensor:
        """Return one vector per ranking, zero where there is none."""
        if self.pooling == "none":
            return features.user.new_zeros(features.ranking.shape[0], features.ranking.shape[2])
        if self.gru is None:
            place = torch.arange(features.ranking.shape[1])[None, :, None] < features.n_ranked[:, None, None]
            return (features.ranking * place).sum(dim=1) / features.n_ranked.clamp(min=1)[:, None]
        pooled = features.user.new_zeros(len(features.user), self.gru.hidden_size)
        rows = features.n_ranked.nonzero()[:, 0]
        if len(rows):
            outputs, _ = self.gru(features.ranking[rows])
            pooled[rows] = outputs[torch.arange(len(rows)), features.n_ranked[rows] - 1]
        return pooled
