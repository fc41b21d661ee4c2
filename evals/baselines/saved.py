"""Fitted models, kept between runs: tensors beside a manifest that is written last, so that it vouches for them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from promptailor.prompts.domain import Model

logger = logging.getLogger(__name__)

Tensors = Mapping[str, NDArray[np.generic]]
MANIFEST, TENSORS = "manifest.json", "model.safetensors"
SCHEMA_VERSION = 1


class Manifest(Model):
    """What a folder holds, and what it was made from."""

    schema_version: int
    name: str
    settings: dict[str, JsonValue]
    """All that the tensors depend on: digests of data, sizes, seed."""
    tensors_digest: str
    seconds: float
    """Time that fitting took, once."""


def load_or_fit(models: Path, name: str, settings: Mapping[str, JsonValue], fit: Callable[[], Tensors]) -> Tensors:
    """Return the model that was fitted with these settings before, else fit it and keep it.

    Args:
        models: folder of all fitted models; the model's own is `<name>-<digest of the settings>`.
        name: kind of model.
        settings: everything that the fitted tensors depend on, the data set's digest and the seed included.
        fit: makes the tensors. What is returned is what a later run loads, to the bit.

    A folder that another process finished in the meantime is replaced by an equal one; a damaged one is fitted again,
    with a warning.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = models / f"{name}-{digest}"
    if (kept := _read(folder)) is not None:
        return kept
    started = time.perf_counter()
    fitted = fit()
    data = save({key: np.ascontiguousarray(tensor) for key, tensor in fitted.items()})
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        settings=dict(settings),
        tensors_digest=hashlib.sha256(data).hexdigest(),
        seconds=round(time.perf_counter() - started, 1),
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / TENSORS, data)
    _write(folder / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    return fitted


def _read(folder: Path) -> Tensors | None:
    """Return the tensors that the manifest vouches for; None where there is no manifest, or it does not."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        data = (folder / TENSORS).read_bytes()
        if (manifest.schema_version, manifest.tensors_digest) == (SCHEMA_VERSION, hashlib.sha256(data).hexdigest()):
            return load(data)
        reason = "its files do not belong together"
    except (OSError, ValidationError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
    logger.warning("%s: fitted again, because the saved model is damaged (%s)", folder, reason)
    return None


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
