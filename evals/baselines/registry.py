"""The classic methods by name, and the null controls of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from promptailor.evals.baselines.base import Method
from promptailor.evals.baselines.bpr import BPR
from promptailor.evals.baselines.itemknn import ItemKNN
from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.baselines.popularity import Popularity
from promptailor.evals.controls import SwappedHistory
from promptailor.evals.datasets import Dataset
from promptailor.evals.types import EvalCase

CLASSIC: Mapping[str, Callable[[Dataset, int], Method]] = {
    "identity": lambda dataset, seed: Identity(),
    "random": lambda dataset, seed: Random(seed),
    "popularity": lambda dataset, seed: Popularity(dataset.training_sequences()),
    "itemknn": lambda dataset, seed: ItemKNN(dataset.training_sequences()),
    "bpr": lambda dataset, seed: BPR(dataset.training_sequences(), seed=seed),
}
"""Made from the data set, whose held-out items they never see, and the run's seed."""


def null_controls(dataset: Dataset, methods: Sequence[Method], cases: Sequence[EvalCase], *, seed: int) -> list[Method]:
    """Return what every evaluation runs beside its methods: orders that know nothing, and somebody else's history.

    The history is swapped for the last method that calls an LLM, which is by custom the one the run is about.
    """
    controls = [CLASSIC[name](dataset, seed) for name in ("identity", "random", "popularity")]
    personal = [method for method in methods if method.llm]
    if personal and len(cases) > 1:
        controls.append(SwappedHistory(personal[-1], cases, seed=seed))
    return controls
