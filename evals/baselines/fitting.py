"""Fitting a baseline: stop early on validation users, keep the best epoch, and never fit the same model twice.

    <models>/<name>-<key>/manifest.json         what it was fitted on and how it went; written last
    <models>/<name>-<key>/model.safetensors     its tensors

Training interactions are all but each user's last two; epochs are compared on the second-to-last item of validation
users, so no label of a test user has a part in a fit or in its stopping.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from promptailor.evals.baselines.base import Method
from promptailor.evals.datasets import Dataset
from promptailor.evals.metrics import PRIMARY, score
from promptailor.evals.protocol import make_cases, split_users
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import CheckpointError

logger = logging.getLogger(__name__)

Tensors = Mapping[str, NDArray[np.float32]]
Advance = Callable[[int], None]
"""Moves a progress bar by so many epochs."""
ProgressBar = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Shows a bar with a description and a total, and yields what moves it."""

SCHEMA_VERSION = 1
"""Part of every key: raise it when the same settings begin to mean another model."""
MANIFEST, TENSORS = "manifest.json", "model.safetensors"
MAX_VALIDATION_USERS = 1_000
"""Enough for a standard error of .01, few enough to be ranked after every epoch."""
VALIDATION_SEED = 0
"""Of the validation users' negatives and slots, the same for every run's seed."""


class FitLog(Model):
    """How a fit went."""

    best_epoch: int = Field(ge=1)
    """The epoch whose tensors were kept, from 1."""
    validation: tuple[float, ...]
    """Mean NDCG@10 on validation users after each epoch; empty where there are none. Selected on, so optimistic."""
    seconds: float
    """Of one core, validation included: what the fit costs on a machine that does nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted model."""

    tensors: Tensors
    log: FitLog


class FitManifest(Model):
    """What the tensors beside it are."""

    schema_version: int = SCHEMA_VERSION
    created_by: str = Field(default_factory=lambda: f"promptailor {installed_version('promptailor')}")
    name: str
    key: dict[str, JsonValue]
    """Everything the fit depends on: digests of data, settings, seed."""
    sha256: str
    """Of the tensors' file."""
    log: FitLog


@contextmanager
def no_progress(description: str, total: int | None) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda n: None


def validation_cases(dataset: Dataset) -> tuple[EvalCase, ...]:
    """Return the cases that epochs are compared on: second-to-last items of the first validation users."""
    users = split_users(dataset).validation[:MAX_VALIDATION_USERS]
    return make_cases(dataset, users, seed=VALIDATION_SEED, hold_out="second_last")


def mean_ndcg(method: Method, cases: Sequence[EvalCase]) -> float:
    """Return the mean NDCG@10 of a method's rankings."""
    answers = method.rank([case.request for case in cases])
    scores = [score(a.ranking, c.relevant_item_id)[PRIMARY] for a, c in zip(answers, cases, strict=True)]
    return float(np.mean(scores))


def fit_epochs(
    training: Iterator[object],
    snapshot: Callable[[], Tensors],
    scorer: Callable[[Tensors], Method],
    cases: Sequence[EvalCase],
    *,
    epochs: int,
    patience: int,
    advance: Advance,
) -> Fit:
    """Train until `patience` epochs in a row have not beaten the best one, and return the best.

    Args:
        training: does one epoch per item.
        snapshot: returns copies of the model's tensors.
        scorer: makes the method that those tensors are saved for, so that selection ranks as evaluation does.
        cases: what epochs are compared on; without any, all epochs are done and the last one counts.
        epochs: the most to do.
        patience: epochs without a gain before it stops.
        advance: told of every epoch.
    """
    started = time.process_time()
    scores: list[float] = []
    best: tuple[int, Tensors] = (0, {})
    for epoch, _ in enumerate(islice(training, epochs), 1):
        tensors = snapshot()
        advance(1)
        if cases:
            scores.append(mean_ndcg(scorer(tensors), cases))
        if not cases or scores[-1] > max(scores[:-1], default=-1.0):
            best = epoch, tensors
        elif epoch - best[0] >= patience:
            break
    log = FitLog(best_epoch=best[0], validation=tuple(scores), seconds=round(time.process_time() - started, 1))
    return Fit(tensors=best[1], log=log)


def kept_fit(models: Path, name: str, key: Mapping[str, JsonValue], fit: Callable[[], Fit]) -> Fit:
    """Return the model that was fitted with this key before, or fit and keep it; a damaged one is fitted anew.

    Args:
        models: the folder of all fitted models.
        name: the baseline's name.
        key: everything the fit depends on but the code: digests of data, settings, seed.
        fit: fits the model.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, "name": name, **key}, sort_keys=True)
    folder = models / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if (kept := _load(folder, dict(key))) is not None:
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fitted = fit()
        content = safetensors.numpy.save(dict(fitted.tensors))
        digest = hashlib.sha256(content).hexdigest()
        manifest = FitManifest(name=name, key=dict(key), sha256=digest, log=fitted.log)
        _write(folder / TENSORS, content)
        _write(folder / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}; free space or set PROMPTAILOR_HOME") from None
    return fitted


def _load(folder: Path, key: dict[str, JsonValue]) -> Fit | None:
    """Return what lies in the folder, None where it is missing, damaged or something else."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = FitManifest.model_validate_json((folder / MANIFEST).read_bytes())
        content = (folder / TENSORS).read_bytes()
        if manifest.key == key and hashlib.sha256(content).hexdigest() == manifest.sha256:
            return Fit(tensors=safetensors.numpy.load(content), log=manifest.log)
    except (OSError, ValidationError, safetensors.SafetensorError):
        pass  # as one that changed since it was written
    logger.warning("%s: damaged; it is fitted again", folder)
    return None


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)
