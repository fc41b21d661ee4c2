"""The folder of a fine-tuning run: settings, a checkpoint while it runs, and in the end a plain peft adapter."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from promptailor.evals.records import write_text
from promptailor.evals.statistics import Estimate
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import CheckpointError, InputError
from promptailor.prompts.patterns import Task

M = TypeVar("M", bound=Model)

_SETTINGS, _CHECKPOINT, _MANIFEST = "settings.json", "checkpoint.safetensors", "manifest.json"


class FinetuneSettings(Model):
    """Everything the adapter depends on; a resumed run must have the same."""

    task: Task = "ranking"
    base: str
    base_fingerprint: str
    """Of the base model's files, or its commit on the hub."""
    dataset: str
    dataset_digest: str
    catalogue_digest: str
    steps: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    warmup: float
    rank: int
    alpha: int
    dropout: float
    max_length: int
    dtype: str
    seed: int


class Validation(Model):
    """The task's measure on the validation users' second-to-last items; `finetune.validation` says what it is."""

    user_ids: tuple[str, ...]
    before: Estimate
    after: Estimate
    gain: Estimate
    """Paired over users."""


class FinetuneManifest(Model):
    """How an adapter was made."""

    schema_version: Literal[1] = 1
    settings: FinetuneSettings
    n_users: int
    """Users whose training part the examples were drawn from: everybody's, as for every model of items."""
    n_parameters: int
    """Of the adapter."""
    losses: tuple[float, ...]
    """Of each step, in nats per answer token."""
    validation: Validation
    versions: dict[str, str]
    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a run stands after a step."""

    losses: tuple[float, ...]
    """One per finished step."""
    tensors: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class FinetuneFolder:
    """A fine-tuning run on disk."""

    path: Path

    @classmethod
    def open(cls, path: Path, settings: FinetuneSettings, *, resume: bool) -> FinetuneFolder:
        """Start a run, or go on with one.

        Raises:
            InputError: the folder holds something else, or a run while `resume` is off, or one with other settings.
        """
        stored = path / _SETTINGS
        if (path / _CHECKPOINT).exists() or (path / _MANIFEST).exists():
            if not resume:
                raise InputError(f"--out {path}: already holds a run; pass --resume to go on, or name another folder")
            was, now = _read(stored, FinetuneSettings).model_dump(), settings.model_dump()
            if different := [name for name in now if was[name] != now[name]]:
                name = different[0]
                raise InputError(f"--resume {path}: {name} was {was[name]!r} and is {now[name]!r}; settings must match")
        elif not stored.exists() and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"--out {path}: is not empty and holds no fine-tuning run; name another folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_text(stored, settings.model_dump_json(indent=1))
        except OSError as error:
            raise InputError(f"--out {path}: {error.strerror}; name a folder that can be written") from None
        return cls(path)

    def manifest(self) -> FinetuneManifest | None:
        """Return the manifest of a finished run."""
        path = self.path / _MANIFEST
        return _read(path, FinetuneManifest) if path.exists() else None

    def checkpoint(self) -> Checkpoint | None:
        """Return where an unfinished run stands; None before its first checkpoint.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        path = self.path / _CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
                return Checkpoint(losses=tuple(json.loads(file.metadata()["losses"])), tensors=tensors)
        except (SafetensorError, ValueError, TypeError, KeyError):
            raise CheckpointError(f"{path}: damaged; delete it to start the run again") from None

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all."""
        unfinished = self.path / f".{_CHECKPOINT}"
        save_file(dict(checkpoint.tensors), unfinished, metadata={"losses": json.dumps(checkpoint.losses)})
        os.replace(unfinished, self.path / _CHECKPOINT)

    def finish(self, manifest: FinetuneManifest, card: str) -> None:
        """Write manifest and card beside the adapter, and drop the checkpoint."""
        write_text(self.path / "README.md", card)
        write_text(self.path / _MANIFEST, manifest.model_dump_json(indent=1))
        (self.path / _CHECKPOINT).unlink(missing_ok=True)


def _read(path: Path, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: {error.error_count()} damaged field(s); fine-tune into another folder"
        ) from None
