"""SASRec (Kang and McAuley 2018, arXiv 1808.09781): the next item from the order of the last ones.

Causal self-attention over the history; an item's score is its embedding times the last position's state. Departures:

* cross-entropy over the catalogue instead of one sampled negative per position, as later work found better; over a
  uniform sample of it where the catalogue is large, each sampled item standing for its share of the others;
* layers are normalised before attention and feed-forward (pre-norm), and dropout is on the input and on what each of
  the two adds, not on the attention weights;
* a history longer than the window is cut into several windows, at other places in every epoch, so that all of it is
  trained on; histories are padded at the end, which the causal mask hides without a second mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

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
from promptailor.prompts.errors import DataError

Rows = NDArray[np.int64]
"""Item rows of one user, oldest first."""

INITIAL_SD = 0.02
MIN_BATCH, MAX_BATCH = 1_024, 4_096
"""Positions: smaller batches waste time, larger ones memory."""
NO_TARGET = -1


class SASRecSettings(Model):
    """Size of the network, and how it is trained."""

    dimension: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    length: int = 50
    """Most recent items that are read."""
    dropout: float = 0.2
    learning_rate: float = 1e-3
    batches_per_epoch: int = 200
    """Steps that the data are dealt to, as far as a batch has between `MIN_BATCH` and `MAX_BATCH` positions."""
    n_negatives: int = 512
    """Items sampled per step for the cross-entropy; a catalogue that is no larger is used whole."""
    epochs: int = 60
    """The most epochs."""
    patience: int = 5
    """Epochs without a gain on validation users before training stops."""


class Block(nn.Module):
    """Causal self-attention, then a feed-forward network, each added to its input."""

    def __init__(self, dimension: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, nn.Dropout(dropout)
        self.attention_norm, self.forward_norm = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.attention_in, self.attention_out = nn.Linear(dimension, 3 * dimension), nn.Linear(dimension, dimension)
        self.forward_in, self.forward_out = nn.Linear(dimension, dimension), nn.Linear(dimension, dimension)

    def forward(self, states: Tensor) -> Tensor:
        """Map states of shape (batch, length, dim) to new ones."""
        batch, length, dimension = states.shape
        heads = self.attention_in(self.attention_norm(states)).view(batch, length, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.dropout(self.attention_out(attended.transpose(1, 2).reshape(batch, length, dimension)))
        hidden = F.relu(self.forward_in(self.forward_norm(states)))
        added: Tensor = states + self.dropout(self.forward_out(hidden))
        return added


class SASRecNetwork(nn.Module):
    """Items in, one state per position out; the state after an item is to be near the item that follows."""

    def __init__(self, n_items: int, settings: SASRecSettings) -> None:
        super().__init__()
        self.scale = math.sqrt(settings.dimension)
        self.items = nn.Embedding(n_items, settings.dimension)
        self.positions = nn.Embedding(settings.length, settings.dimension)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            Block(settings.dimension, settings.n_heads, settings.dropout) for _ in range(settings.n_blocks)
        )
        self.norm = nn.LayerNorm(settings.dimension)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=INITIAL_SD)

    def forward(self, rows: Tensor) -> Tensor:
        """Return states of shape (batch, length, dim) for item rows of shape (batch, length)."""
        positions = self.positions.weight[: rows.shape[1]]
        states = self.dropout(self.items(rows) * self.scale + positions)
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed


class SASRec(VectorScorer):
    """Candidates by what their history leads to; the user need not be known, only the history."""

    name = "sasrec"
    settings: ClassVar[SASRecSettings] = SASRecSettings()

    def __init__(self, item_ids: Sequence[str], tensors: Tensors) -> None:
        """Wrap a network's tensors, rows of its items in the order of `item_ids`."""
        super().__init__(item_ids, tensors["items.weight"])
        self._network = SASRecNetwork(len(item_ids), self.settings)
        self._network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
        self._network.eval()

    def query(self, request: RankRequest) -> NDArray[np.float32] | None:
        """Return the state after the history's last item; items that training never saw are passed over."""
        known = [row for item in request.history if (row := self._rows.get(item.item_id)) is not None]
        if not known:
            return None
        with torch.inference_mode():
            state: NDArray[np.float32] = self._network(torch.tensor([known[-self.settings.length :]]))[0, -1].numpy()
        return state

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, models: Path, progress: ProgressBar = no_progress) -> Self:
        """Fit on the training interactions with early stopping, or take the model that was kept.

        Args:
            dataset: its `training_sequences` are fitted; second-to-last items of validation users select the epoch.
            seed: seeds initial weights, windows, batches, negatives and dropout.
            models: folder that fitted models are kept in.
            progress: shows a bar.

        Raises:
            DataError: no user has two training interactions.
            CheckpointError: the folder cannot be written.
        """
        sequences = dict(sorted(dataset.training_sequences().items()))
        item_ids = sorted({item_id for items in sequences.values() for item_id in items})
        key: dict[str, JsonValue] = {"dataset": dataset.digest, "seed": seed, "settings": cls.settings.model_dump()}
        # Dropout and a network's first weights draw from torch's global generator: its state is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            kept = kept_fit(models, cls.name, key, lambda: cls._fit(dataset, sequences, item_ids, seed, progress))
            return cls(item_ids, kept.tensors)

    @classmethod
    def _fit(
        cls,
        dataset: Dataset,
        sequences: Mapping[str, Sequence[str]],
        item_ids: Sequence[str],
        seed: int,
        progress: ProgressBar,
    ) -> Fit:
        rows = {item_id: row for row, item_id in enumerate(item_ids)}
        chosen = [np.array([rows[i] for i in items], dtype=np.int64) for items in sequences.values() if len(items) > 1]
        if not chosen:
            raise DataError(f"{cls.name}: no user has two training interactions to learn an order from")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more are slower on a busy machine, and sum in another order
        try:
            with progress(f"fitting {cls.name}", cls.settings.epochs) as advance:
                torch.manual_seed(seed)
                network = SASRecNetwork(len(item_ids), cls.settings)
                return fit_epochs(
                    cross_entropy_epochs(network, chosen, cls.settings, np.random.default_rng(seed)),
                    lambda: {name: t.detach().numpy().copy() for name, t in network.state_dict().items()},
                    lambda tensors: cls(item_ids, tensors),
                    validation_cases(dataset),
                    epochs=cls.settings.epochs,
                    patience=cls.settings.patience,
                    advance=advance,
                )
        finally:
            torch.set_num_threads(threads)


def cross_entropy_epochs(
    network: SASRecNetwork, sequences: Sequence[Rows], settings: SASRecSettings, rng: np.random.Generator
) -> Iterator[float]:
    """Train epoch by epoch for as long as the caller asks; yields each epoch's mean cross-entropy per position."""
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98))
    while True:
        network.train()
        losses = []
        for inputs, targets in _batches(sequences, settings, rng):
            loss = _loss(network, inputs, targets, settings.n_negatives, rng)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses)


def _loss(
    network: SASRecNetwork, inputs: Tensor, targets: Tensor, n_negatives: int, rng: np.random.Generator
) -> Tensor:
    """Cross-entropy of the targets; over a sample, the other items' share of the sum is that of the sampled ones."""
    real = targets != NO_TARGET
    states, wanted = network(inputs)[real], targets[real]
    n_items = network.items.num_embeddings
    if n_items <= n_negatives:
        return F.cross_entropy(states @ network.items.weight.T, wanted)
    sample = torch.from_numpy(rng.choice(n_items, size=n_negatives, replace=False, shuffle=False))
    others = states @ network.items(sample).T + math.log(n_items / n_negatives)
    others = others.masked_fill(sample == wanted[:, None], -torch.inf)  # an item is no rival of itself
    own = (states * network.items(wanted)).sum(dim=1, keepdim=True)
    logits = torch.cat([own, others], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(wanted))


def _batches(
    sequences: Sequence[Rows], settings: SASRecSettings, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets of shape (batch, length) that go through every window once, in random order.

    Windows of like length share a batch, so that little is padded.
    """
    windows = [window for sequence in sequences for window in _windows(sequence, settings.length, rng)]
    lengths = np.array([len(window) - 1 for window in windows])
    order = np.lexsort((rng.random(len(windows)), lengths))
    n_positions = min(MAX_BATCH, max(MIN_BATCH, int(lengths.sum()) // settings.batches_per_epoch))
    # From the longest down: a batch is as wide as its first window.
    batches: list[NDArray[np.int64]] = []
    end = len(order)
    while end > 0:
        size = max(1, n_positions // int(lengths[order[end - 1]]))
        batches.append(order[max(0, end - size) : end])
        end -= size
    for place in rng.permutation(len(batches)):
        members = batches[place]
        width = int(lengths[members].max())
        inputs = np.zeros((len(members), width), dtype=np.int64)
        targets = np.full((len(members), width), NO_TARGET, dtype=np.int64)
        for line, member in enumerate(members):
            window = windows[member]
            inputs[line, : len(window) - 1], targets[line, : len(window) - 1] = window[:-1], window[1:]
        yield torch.from_numpy(inputs), torch.from_numpy(targets)


def _windows(sequence: Rows, length: int, rng: np.random.Generator) -> list[Rows]:
    """Cut a sequence into windows of at most length + 1 items, each beginning with the item that ends the one before.

    So every item but the first is a target once.
    """
    if len(sequence) <= length + 1:
        return [sequence]
    starts = [0, *range(int(rng.integers(1, length + 1)), len(sequence) - 1, length)]
    return [sequence[start : end + 1] for start, end in zip(starts, [*starts[1:], len(sequence) - 1], strict=True)]
