"""The methods that call no LLM, by name, and the null controls of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptailor.evals.baselines.base import Method
from promptailor.evals.baselines.bm25 import BM25
from promptailor.evals.baselines.bpr import BPR
from promptailor.evals.baselines.fitting import ProgressBar, no_progress
from promptailor.evals.baselines.itemknn import ItemKNN
from promptailor.evals.baselines.lightgcn import LightGCNRanker
from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.baselines.popularity import Popularity
from promptailor.evals.baselines.text_embedding import TextEmbedding
from promptailor.evals.baselines.titles import TitleEmbeddings
from promptailor.evals.controls import SwappedHistory
from promptailor.evals.datasets import Dataset
from promptailor.evals.types import EvalCase
from promptailor.prompts.errors import MissingExtraError
from promptailor.prompts.llm import TextEncoder


@dataclass(frozen=True, kw_only=True)
class BaselineInputs:
    """What baselines are made from."""

    dataset: Dataset
    """Baselines are fitted on its training interactions, and stop early on second-to-last items."""
    seed: int
    encoder: TextEncoder
    """Embeds titles; loads its model when the first text comes."""
    models: Path
    """Folder that fitted models are kept in, each under a name made of its data, settings and seed."""
    others: Callable[[], Sequence[Dataset]]
    """Loads the other data sets that are here, which transferable models are pre-trained on."""
    progress: ProgressBar = no_progress
    """Shows how far a fit is."""


def _sasrec(inputs: BaselineInputs) -> Method:
    try:
        from promptailor.evals.baselines.sasrec import SASRec  # noqa: PLC0415 - imports torch
    except ImportError as error:
        raise MissingExtraError("sasrec", "local") from error
    return SASRec.fit(inputs.dataset, seed=inputs.seed, models=inputs.models, progress=inputs.progress)


def _unisrec(inputs: BaselineInputs) -> Method:
    try:
        from promptailor.evals.baselines.unisrec import UniSRec  # noqa: PLC0415 - imports torch
    except ImportError as error:
        raise MissingExtraError("unisrec", "local") from error
    i = inputs
    return UniSRec.fit(i.dataset, i.others(), encoder=i.encoder, seed=i.seed, models=i.models, progress=i.progress)


def _vq_rec(inputs: BaselineInputs) -> Method:
    try:
        from promptailor.evals.baselines.vq_rec import VQRec  # noqa: PLC0415 - imports torch
    except ImportError as error:
        raise MissingExtraError("vq-rec", "local") from error
    i = inputs
    return VQRec.fit(i.dataset, i.others(), encoder=i.encoder, seed=i.seed, models=i.models, progress=i.progress)


CLASSIC: Mapping[str, Callable[[BaselineInputs], Method]] = {
    "identity": lambda inputs: Identity(),
    "random": lambda inputs: Random(inputs.seed),
    "popularity": lambda inputs: Popularity(inputs.dataset.training_sequences()),
    "itemknn": lambda inputs: ItemKNN(inputs.dataset.training_sequences()),
    "bpr": lambda i: BPR.fit(i.dataset, seed=i.seed, models=i.models, progress=i.progress),
    "lightgcn": lambda i: LightGCNRanker.fit(i.dataset, seed=i.seed, models=i.models, progress=i.progress),
    "sasrec": _sasrec,
    "bm25": lambda inputs: BM25(inputs.dataset.items),
    "text-embedding": lambda i: TextEmbedding(TitleEmbeddings.of(i.dataset, i.encoder, i.models, i.progress)),
    "unisrec": _unisrec,
    "vq-rec": _vq_rec,
}


def null_controls(inputs: BaselineInputs, methods: Sequence[Method], cases: Sequence[EvalCase]) -> list[Method]:
    """Return what every evaluation runs beside its methods: orders that know nothing, and somebody else's history.

    The history is swapped for the last method that calls an LLM, which is by custom the one the run is about.
    """
    controls = [CLASSIC[name](inputs) for name in ("identity", "random", "popularity")]
    personal = [method for method in methods if method.llm]
    if personal and len(cases) > 1:
        controls.append(SwappedHistory(personal[-1], cases, seed=inputs.seed))
    return controls
