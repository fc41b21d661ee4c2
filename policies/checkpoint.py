"""Saved policies: a manifest, and the policy's files in a folder named by their content.

    policy/manifest.json            what the policy is, whom it has seen, what it was made for; written last
    policy/<version>/policy.*       safetensors and JSON, nothing pickled

The manifest is replaced in one go and names the files by their digests, so a run killed at any moment leaves the policy
before or the policy after, and a damaged file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import Persistent, PolicyInfo, PromptPolicy
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.manual import SinglePrompt, Stopped
from promptailor.policies.pap_rec.policy import TriggerPolicy
from promptailor.policies.profiling import Profiling
from promptailor.prompts.errors import CheckpointError
from promptailor.prompts.llm import TextEncoder
from promptailor.prompts.patterns import Catalogue

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class PolicyManifest(BaseModel):
    """What a saved policy is, and what it was made for and from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    created_by: str = Field(default_factory=lambda: f"promptailor {installed_version('promptailor')}")
    name: str
    """The method: rpp, bandit, ..."""
    kind: str = ""
    """Which class reads the files; set by `save_policy`, as are `version` and `files`."""
    version: str = ""
    """Digest of what was learned."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 by file name."""
    seed: int
    train_users: tuple[str, ...]
    validation_users: tuple[str, ...] = ()
    warm_users: tuple[str, ...] = ()
    """Test users whose second-to-last item something of their own was searched on."""
    catalogue_digest: str
    dataset: str
    dataset_digest: str
    model: str
    """`provider:model` of the recommender whose answers it learned from."""
    refiner: str | None = None
    n_steps: int = Field(ge=1)
    """Prompts per served request."""
    permutations: int = Field(1, ge=1)
    """Shuffled copies of each prompt."""
    fusion_weights: tuple[float, ...] = ()
    """Weight of each step's ranking where they were learned; empty where the last one is served."""
    profiling: Profiling | None = None
    """What a model writes about user and items before the policy chooses; None where nothing is."""
    rewrites_proposed: int = Field(0, ge=0)
    """Rewritten instructions that passed the guards and were judged (AGP)."""
    rewrites_accepted: int = Field(0, ge=0)
    stopped: Stopped
    calls: int = Field(ge=0)
    """User-steps spent on learning and selecting it."""

    @property
    def info(self) -> PolicyInfo:
        """What the loaded policy says of itself; users it was selected on count as seen."""
        users = (*self.train_users, *self.validation_users, *self.warm_users)
        return PolicyInfo(
            name=self.name,
            version=self.version,
            train_users=users,
            warm_users=self.warm_users,
            n_steps=self.n_steps,
            permutations=self.permutations,
            fusion_weights=self.fusion_weights,
            profiling=self.profiling,
        )


@runtime_checkable
class SavablePolicy(Persistent, Protocol):
    """A policy that a checkpoint can be made of."""

    @property
    def kind(self) -> str:
        """Key of the loader that reads it back."""
        ...

    @property
    def reads_embeddings(self) -> bool:
        """Whether it needs the item embeddings it was trained with."""
        ...

    @property
    def digest(self) -> str:
        """Hex digest of what was learned."""
        ...


def save_policy(folder: Path, policy: PromptPolicy, manifest: PolicyManifest) -> PolicyManifest:
    """Save a policy, whole or not at all, in place of the one that was there; return the completed manifest.

    Raises:
        CheckpointError: the policy cannot be saved, or the folder not written; what was there before still stands.
    """
    if not isinstance(policy, SavablePolicy):
        raise CheckpointError(f"policy {manifest.name!r}: {type(policy).__name__} has no files; it needs no checkpoint")
    draft = folder / f".{policy.digest}.{os.getpid()}"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        policy.save(draft)
        files = {path.name: _digest(path) for path in sorted(draft.iterdir())}
        complete = manifest.model_copy(update={"kind": policy.kind, "version": policy.digest, "files": files})
        (draft / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", "utf-8")
        final = folder / complete.version
        final.mkdir(exist_ok=True)
        for name in files:
            os.replace(draft / name, final / name)
        os.replace(draft / MANIFEST, folder / MANIFEST)
    except OSError as error:
        raise CheckpointError(f"policy folder {folder}: {error.strerror}; free space or name another folder") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for stale in folder.iterdir():
        if stale.is_dir() and stale != final:
            shutil.rmtree(stale, ignore_errors=True)
    return complete


def read_manifest(folder: Path) -> PolicyManifest:
    """Read a manifest; `CheckpointError` where there is none, or none that this version reads."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
        schema = raw["schema_version"]
        if schema > SCHEMA_VERSION:
            raise CheckpointError(
                f"{path}: schema_version {schema} is newer than {SCHEMA_VERSION}, the newest this version reads; "
                "upgrade promptailor"
            )
        return PolicyManifest.model_validate(raw)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; name the folder of a `promptailor train` run") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: {where}: {first['msg']}; train the policy again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({_one_line(error)}); train the policy again") from None


def load_policy(
    folder: Path, *, catalogue: Catalogue, embeddings: Callable[[], ItemEmbeddings], encoder: TextEncoder
) -> PromptPolicy:
    """Load a saved policy.

    Args:
        folder: where `save_policy` put it.
        catalogue: must be the one it was trained with, because its actions are positions in it.
        embeddings: loads the item embeddings it was trained with; called only where the policy reads them.
        encoder: the sentence encoder it was trained with.

    Raises:
        CheckpointError: it was made for another catalogue, is damaged or incomplete, or of a newer schema.
    """
    manifest = read_manifest(folder)
    if not catalogue.reads(manifest.catalogue_digest):
        raise CheckpointError(
            f"{folder / MANIFEST}: catalogue_digest is {manifest.catalogue_digest}, the catalogue in use has "
            f"{catalogue.digest}; pass the catalogue it was trained with, or train the policy again"
        )
    if manifest.kind not in _LOADERS:
        raise CheckpointError(f"{folder / MANIFEST}: kind {manifest.kind!r} is unknown; upgrade promptailor")
    files = folder / manifest.version
    for name, digest in manifest.files.items():
        if not (files / name).is_file():
            raise CheckpointError(f"{files / name}: no such file; restore it or train the policy again")
        if _digest(files / name) != digest:
            raise CheckpointError(f"{files / name}: changed since it was saved; restore it or train the policy again")
    try:
        known = catalogue.as_of(manifest.catalogue_digest)
        return _LOADERS[manifest.kind](files, manifest.info, known, embeddings, encoder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{files}: does not load ({_one_line(error)}); train the policy again") from None


def _load_single(folder: Path, info: PolicyInfo, *_: object) -> SinglePrompt:
    return SinglePrompt.load(folder, info)


def _load_triggers(folder: Path, info: PolicyInfo, *_: object) -> TriggerPolicy:
    return TriggerPolicy.load(folder, info)


def _load_bandit(
    folder: Path,
    info: PolicyInfo,
    catalogue: Catalogue,
    embeddings: Callable[[], ItemEmbeddings],
    encoder: TextEncoder,
) -> FactoredBandit:
    return FactoredBandit.load(folder, info, catalogue=catalogue, embeddings=embeddings())


def _load_reinforced(
    folder: Path,
    info: PolicyInfo,
    catalogue: Catalogue,
    embeddings: Callable[[], ItemEmbeddings],
    encoder: TextEncoder,
) -> PromptPolicy:
    from promptailor.policies.actor_critic import ReinforcedPolicy  # noqa: PLC0415 - imports torch

    return ReinforcedPolicy.load(folder, info, catalogue=catalogue, embeddings=embeddings(), encoder=encoder)


_LOADERS: Mapping[str, Callable[..., PromptPolicy]] = {
    "single-prompt": _load_single,
    TriggerPolicy.kind: _load_triggers,
    "bandit": _load_bandit,
    "reinforced": _load_reinforced,
}
"""By kind; called with folder, info, catalogue, embeddings, encoder."""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
