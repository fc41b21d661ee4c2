"""Recommenders that carry over: pre-trained on other data sets, they know a target's items by their titles alone.

What UniSRec and VQ-Rec share: the corpus they are pre-trained on, a transformer over a user's items, the contrast of
each state with the item that follows, and how a target is scored. They differ in what they make of a title.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from promptailor.evals.baselines.base import VectorScorer
from promptailor.evals.baselines.fitting import VALIDATION_SEED, Fit, ProgressBar, fit_epochs, kept_fit, no_progress
from promptailor.evals.baselines.sasrec import INITIAL_SD, Block, Rows
from promptailor.evals.baselines.titles import Array, TitleEmbeddings, fingerprint
from promptailor.evals.datasets import Dataset
from promptailor.evals.protocol import make_cases, split_users
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Item, Model, RankRequest
from promptailor.prompts.errors import DataError
from promptailor.prompts.llm import TextEncoder

NO_ITEM = -1


class TransferSettings(Model):
    """Size of the network, and how it is pre-trained: in two or three minutes on one slow core."""

    dimension: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    length: int = 30
    """Most recent items that are read; of a longer training history, another window in every epoch."""
    dropout: float = 0.2
    learning_rate: float = 3e-3
    batch_users: int = 32
    """Users per step; the items of all of them, of whichever data set, are each other's negatives."""
    temperature: float = 0.07
    users_per_source: int = 500
    validation_users_per_source: int = 100
    epochs: int = 20
    """The most epochs."""
    patience: int = 3
    """Epochs without a gain on the sources' validation users before pre-training stops."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a model is pre-trained and selected on: several data sets as one, ids preceded by the data set's name."""

    item_ids: tuple[str, ...]
    text: Array
    """Title embeddings, shape (n_items, text dim), rows in the order of `item_ids`."""
    sequences: tuple[Rows, ...]
    """Training interactions of a sample of users, two items or more each."""
    cases: tuple[EvalCase, ...]
    """Second-to-last items of validation users, each among items of its own data set."""

    @classmethod
    def of(cls, sources: Sequence[Dataset], titles: Sequence[TitleEmbeddings], settings: TransferSettings) -> Corpus:
        """Take the first users of each data set in the order of a hash, and join the data sets."""
        item_ids: list[str] = []
        sequences: list[Rows] = []
        cases: list[EvalCase] = []
        for source, embedded in zip(sources, titles, strict=True):
            rows = {item_id: len(item_ids) + row for row, item_id in enumerate(embedded.item_ids)}
            training = {user: items for user, items in source.training_sequences().items() if len(items) > 1}
            users = sorted(training, key=lambda user: (uniform("transfer", user), user))[: settings.users_per_source]
            sequences += [np.array([rows[item_id] for item_id in training[user]], np.int64) for user in users]
            validation = split_users(source).validation[: settings.validation_users_per_source]
            asked = make_cases(source, validation, seed=VALIDATION_SEED, hold_out="second_last")
            cases += [_renamed(case, source.name) for case in asked]
            item_ids += [_joint_id(source.name, item_id) for item_id in embedded.item_ids]
        if not sequences:
            raise DataError("the other data sets: no user has two training interactions to learn an order from")
        text = np.concatenate([embedded.matrix for embedded in titles])
        return cls(item_ids=tuple(item_ids), text=text, sequences=tuple(sequences), cases=tuple(cases))


def _joint_id(source: str, item_id: str) -> str:
    return f"{source}/{item_id}"


def _renamed(case: EvalCase, source: str) -> EvalCase:
    def renamed(items: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(item.model_copy(update={"item_id": _joint_id(source, item.item_id)}) for item in items)

    asked = case.request
    changed = {
        "user_id": _joint_id(source, asked.user_id),
        "history": renamed(asked.history),
        "candidates": renamed(asked.candidates),
    }
    return replace(
        case, request=asked.model_copy(update=changed), relevant_item_id=_joint_id(source, case.relevant_item_id)
    )


class TransferNetwork(nn.Module, ABC):
    """Items' titles in, one state per position out; the state after an item is to be near the item that follows."""

    def __init__(self, settings: TransferSettings, text_dimension: int) -> None:
        super().__init__()
        self.text_dimension = text_dimension
        self.temperature = settings.temperature
        self.length = settings.length
        self.positions = nn.Embedding(settings.length, settings.dimension)
        self.input_norm, self.dropout = nn.LayerNorm(settings.dimension), nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            Block(settings.dimension, settings.n_heads, settings.dropout) for _ in range(settings.n_blocks)
        )
        self.norm = nn.LayerNorm(settings.dimension)
        nn.init.normal_(self.positions.weight, std=INITIAL_SD)

    @abstractmethod
    def learn_titles(self, text: Array, rng: np.random.Generator) -> None:
        """Fit what is not learned by gradient, to title embeddings of shape (n, text dim)."""

    @abstractmethod
    def read(self, text: Array) -> Tensor:
        """Turn title embeddings into what `represent` takes, one row per item."""

    @abstractmethod
    def represent(self, features: Tensor) -> Tensor:
        """Map rows of `read` to item vectors, shape (n, dim)."""

    def states(self, vectors: Tensor) -> Tensor:
        """Return states of shape (batch, length, dim) for item vectors of the same shape."""
        states = self.dropout(self.input_norm(vectors + self.positions.weight[: vectors.shape[1]]))
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed

    def loss(self, features: Tensor, batch: Sequence[Rows]) -> Tensor:
        """Return the contrastive loss of some users' sequences.

        Each state is to be nearer to the next item than to the batch's other items; the user's own others are no
        negatives. As in both papers cosines are divided by a temperature; unlike there, each prefix of a sequence is
        not a row of its own, but a position of the causal transformer.

        Args:
            features: `read` of the whole corpus.
            batch: rows of `features` per user, oldest first, at most `length + 1` each.
        """
        items, flat = np.unique(np.concatenate(batch), return_inverse=True)
        places = torch.nn.utils.rnn.pad_sequence(
            [*torch.split(torch.from_numpy(flat), [*map(len, batch)])], batch_first=True, padding_value=NO_ITEM
        )
        chosen = features[torch.from_numpy(items)]
        vectors = self.represent(chosen)
        # Padding comes last, where the causal mask hides it from every real position.
        states = self.states(vectors[places[:, :-1].clamp(min=0)])
        real = places[:, 1:] != NO_ITEM
        wanted, users = places[:, 1:][real], real.nonzero()[:, 0]
        outputs = F.normalize(states[real], dim=-1)
        own = torch.zeros(len(batch), len(items) + 1, dtype=torch.bool).scatter_(1, places % (len(items) + 1), True)
        rival = ~own[users, : len(items)]
        rival[torch.arange(len(wanted)), wanted] = True
        cosines = (outputs @ F.normalize(vectors, dim=-1).T).masked_fill(~rival, -torch.inf)
        others = self.more_negatives(outputs, chosen[wanted])
        loss = F.cross_entropy(torch.cat([cosines, others], dim=1) / self.temperature, wanted)
        ends = real.sum(dim=1) - 1
        return loss + self.more_loss(vectors, places, states[torch.arange(len(batch)), ends])

    def more_negatives(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Return cosines with further negatives, shape (n, any); none unless a model has some.

        Args:
            outputs: normalised states, shape (n, dim).
            wanted: what `read` made of the items that follow them.
        """
        return outputs.new_empty(len(outputs), 0)

    def more_loss(self, vectors: Tensor, places: Tensor, ends: Tensor) -> Tensor:
        """Return a second loss of the batch: nothing unless a model has one.

        Args:
            vectors: the batch's item vectors, shape (n_items, dim).
            places: rows of `vectors` per user, shape (batch, length + 1), `NO_ITEM` after a user's last.
            ends: states before each user's last item, shape (batch, dim).
        """
        return vectors.new_zeros(())


class TransferScorer(VectorScorer):
    """Candidates by the cosine of their vector and the state after the history; nothing is learned from the target."""

    network_type: ClassVar[type[TransferNetwork]]
    settings: ClassVar[TransferSettings]
    name: ClassVar[str]

    def __init__(self, network: TransferNetwork, item_ids: Sequence[str], features: Tensor) -> None:
        """Wrap a network, and what it `read` of the items' titles."""
        self._network = network.eval()
        with torch.inference_mode():
            self._inputs = network.represent(features)
            super().__init__(item_ids, F.normalize(self._inputs, dim=-1).numpy())

    def query(self, request: RankRequest) -> NDArray[np.float32] | None:
        """Return the state after the history's last item; items that the catalogue lacks are passed over."""
        rows = [row for item in request.history if (row := self._rows.get(item.item_id)) is not None]
        if not rows:
            return None
        with torch.inference_mode():
            states = self._network.states(self._inputs[rows[-self.settings.length :]][None])
            state: NDArray[np.float32] = F.normalize(states[0, -1], dim=-1).numpy()
        return state

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        others: Sequence[Dataset],
        *,
        encoder: TextEncoder,
        seed: int,
        models: Path,
        progress: ProgressBar = no_progress,
    ) -> Self:
        """Pre-train on the other data sets, or take the model that was kept; of the target only titles are read.

        Args:
            dataset: the target.
            others: data sets to pre-train on: their `training_sequences`, and the second-to-last items of their
                validation users to select the epoch. Editions of the target's own files are left out.
            encoder: embeds titles.
            seed: seeds initial weights, windows, batches, negatives and dropout.
            models: folder that title embeddings and pre-trained models are kept in.
            progress: shows a bar.

        Raises:
            DataError: there is no other data set, or nothing in them to learn from.
            MissingExtraError: titles are new and sentence-transformers is not installed.
            CheckpointError: the folder cannot be written.
        """
        sources = foreign(dataset, others)
        if not sources:
            raise DataError(
                f"{cls.name}: needs another data set than {dataset.name} to be pre-trained on;"
                " run `promptailor data get ml-100k` or set PROMPTAILOR_DATA to a folder that holds several"
            )
        embed = functools.partial(TitleEmbeddings.of, encoder=encoder, models=models, progress=progress)
        titles = embed(dataset)
        key: dict[str, JsonValue] = {
            "sources": {source.name: source.digest for source in sources},
            "encoder": fingerprint(encoder),
            "seed": seed,
            "settings": cls.settings.model_dump(),
        }
        kept = kept_fit(models, cls.name, key, lambda: cls._pretrain(sources, [*map(embed, sources)], seed, progress))
        network = cls.network_type(cls.settings, titles.matrix.shape[1])
        network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in kept.tensors.items()})
        return cls(network, titles.item_ids, network.read(titles.matrix))

    @classmethod
    def _pretrain(
        cls, sources: Sequence[Dataset], titles: Sequence[TitleEmbeddings], seed: int, progress: ProgressBar
    ) -> Fit:
        corpus = Corpus.of(sources, titles, cls.settings)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more are slower on a busy machine, and sum in another order
        try:
            # Dropout and noise draw from torch's global generator: its state is put back afterwards.
            with torch.random.fork_rng(devices=[]), progress(f"pre-training {cls.name}", cls.settings.epochs) as bar:
                torch.manual_seed(seed)
                rng = np.random.default_rng(seed)
                network = cls.network_type(cls.settings, corpus.text.shape[1])
                network.learn_titles(corpus.text, rng)
                features = network.read(corpus.text)
                return fit_epochs(
                    pretraining_epochs(network, features, corpus.sequences, cls.settings, rng),
                    lambda: {name: t.detach().numpy().copy() for name, t in network.state_dict().items()},
                    lambda _: cls(network, corpus.item_ids, features),
                    corpus.cases,
                    epochs=cls.settings.epochs,
                    patience=cls.settings.patience,
                    advance=bar,
                )
        finally:
            torch.set_num_threads(threads)


def foreign(dataset: Dataset, others: Sequence[Dataset]) -> list[Dataset]:
    """Return the other data sets by name, one per folder of files, without editions of the target's own folder."""
    folders = {Path(dataset.spec.folder).name.casefold(): dataset}
    for other in sorted(others, key=lambda other: other.name):
        folders.setdefault(Path(other.spec.folder).name.casefold(), other)
    return [other for other in folders.values() if other is not dataset and other.digest != dataset.digest]


def pretraining_epochs(
    network: TransferNetwork,
    features: Tensor,
    sequences: Sequence[Rows],
    settings: TransferSettings,
    rng: np.random.Generator,
) -> Iterator[float]:
    """Train epoch by epoch for as long as the caller asks; yields each epoch's mean loss per step."""
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    while True:
        network.train()
        losses = []
        order = rng.permutation(len(sequences))
        for start in range(0, len(order), settings.batch_users):
            batch = [
                _window(sequences[user], settings.length + 1, rng) for user in order[start:][: settings.batch_users]
            ]
            loss = network.loss(features, batch)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses)


def _window(sequence: Rows, length: int, rng: np.random.Generator) -> Rows:
    start = int(rng.integers(max(0, len(sequence) - length) + 1))
    return sequence[start : start + length]
