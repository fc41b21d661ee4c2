"""Saved policies: a JSON manifest beside safetensors or JSON; nothing is pickled.

A folder is written whole or not at all, and is loaded only for the catalogue it was made with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import PolicyInfo, PromptPolicy
from promptailor.policies.manual import SinglePrompt
from promptailor.prompts.errors import CheckpointError, MissingExtraError
from promptailor.prompts.llm import TextEncoder
from promptailor.prompts.patterns import Catalogue, PromptSpec

if TYPE_CHECKING:
    from promptailor.policies.embeddings import ItemEmbeddings

MANIFEST = "manifest.json"
Kind = Literal["single", "bandit", "reinforced"]


class PolicyManifest(BaseModel):
    """Where a policy comes from, and what it may be used with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: Kind = "single"
    """Which class reads the folder; written by `save_policy`."""
    name: str
    """The method's name, such as `rpp`."""
    seed: int
    train_users: tuple[str, ...]
    validation_users: tuple[str, ...] = ()
    catalogue_digest: str
    dataset: str
    dataset_digest: str
    model: str
    """Spec of the recommender it was trained with."""
    refiner: str | None = None
    n_steps: int = 1
    """Calls per served request."""
    fusion_weights: tuple[float, ...] = ()
    stopped: Literal["finished", "budget", "early"]
    """`early`: an earlier checkpoint than the last served validation users best."""
    calls: int
    """User-steps spent, those on validation users included."""


def save_policy(folder: Path, policy: PromptPolicy, manifest: PolicyManifest) -> None:
    """Save a policy and its manifest, replacing what the folder held.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was there before stays.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            kind = _write(staging, policy)
            content = manifest.model_copy(update={"kind": kind}).model_dump_json(indent=2)
            (staging / MANIFEST).write_text(content + "\n", "utf-8")
            _replace(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}; free some space or name another folder") from None


def read_manifest(folder: Path) -> PolicyManifest:
    """Read a saved policy's manifest.

    Raises:
        CheckpointError: there is none, it is damaged, or a newer version wrote it.
    """
    path = folder / MANIFEST
    try:
        return PolicyManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; name the --out folder of `promptailor train`") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        raise CheckpointError(f"{path}: {field}: {first['msg']}; train the policy again") from None


def load_policy(
    folder: Path,
    *,
    catalogue: Catalogue,
    embeddings: Callable[[], ItemEmbeddings],
    encoder: TextEncoder,
) -> PromptPolicy:
    """Load a saved policy.

    Args:
        folder: what `save_policy` wrote.
        catalogue: the patterns it will choose from; must be those it was trained with.
        embeddings: loads the vectors of users and items, called where the policy reads them.
        encoder: embeds sentences.

    Raises:
        CheckpointError: the folder is missing or damaged, or belongs to another catalogue.
    """
    manifest = read_manifest(folder)
    if manifest.catalogue_digest != catalogue.digest:
        raise CheckpointError(
            f"{folder}: catalogue_digest is {manifest.catalogue_digest}, the catalogue's is {catalogue.digest}; "
            "load it with the catalogue it was trained with (--catalogue), or train it again"
        )
    info = PolicyInfo(
        name=manifest.name,
        version=_digest(folder),
        train_users=(*manifest.train_users, *manifest.validation_users),
        n_steps=manifest.n_steps,
        fusion_weights=manifest.fusion_weights,
    )
    try:
        if manifest.kind == "single":
            spec = PromptSpec.model_validate_json((folder / "prompt.json").read_bytes())
            return SinglePrompt(spec=spec, info=info)
        if manifest.kind == "bandit":
            return FactoredBandit.load(folder, info, catalogue=catalogue, embeddings=embeddings())
        try:
            from promptailor.policies.actor_critic import ReinforcedPolicy  # noqa: PLC0415 - imports torch
        except ImportError as error:
            raise MissingExtraError(f"policy {manifest.name!r}: ({error.name} is not installed)", "local") from None
        return ReinforcedPolicy.load(folder, info, catalogue=catalogue, embeddings=embeddings(), encoder=encoder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder}: damaged ({reason}); train the policy again") from None


def _write(folder: Path, policy: PromptPolicy) -> Kind:
    if isinstance(policy, SinglePrompt):
        (folder / "prompt.json").write_text(policy.spec.model_dump_json(indent=2) + "\n", "utf-8")
        return "single"
    if isinstance(policy, FactoredBandit):
        policy.save(folder)
        return "bandit"
    from promptailor.policies.actor_critic import ReinforcedPolicy  # noqa: PLC0415 - imports torch

    assert isinstance(policy, ReinforcedPolicy), f"{type(policy).__name__} has no saved form"
    policy.save(folder)
    return "reinforced"


def _replace(staging: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one; a kill in between leaves one of the two."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        os.replace(folder, old / folder.name)
        os.replace(staging, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(staging, folder)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
