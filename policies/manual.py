"""Policies that serve one prompt to everybody: the manual prompt, and whatever a search found best."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from promptailor.policies.base import Decision, PolicyInfo
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import Catalogue, PromptSpec

Stopped = Literal["finished", "budget", "interrupted", "early"]
"""Why a search or a training run ended."""


@dataclass(frozen=True, kw_only=True)
class SinglePrompt:
    """One prompt for every user (task-wise prompting); an `OneShotPolicy`."""

    kind: ClassVar[str] = "single-prompt"
    reads_embeddings: ClassVar[bool] = False
    spec: PromptSpec
    info: PolicyInfo
    stopped: Stopped = "finished"
    """Whether the search that found it ran to its end."""

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        """Return the prompt, whoever asks."""
        return Decision(spec=self.spec)

    @property
    def digest(self) -> str:
        """Hex digest of the prompt."""
        return hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write `policy.json`."""
        (folder / "policy.json").write_text(json.dumps(self.spec.model_dump(), indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path, info: PolicyInfo) -> SinglePrompt:
        """Read what `save` wrote; use `checkpoint.load_policy`, which checks that the files fit."""
        return cls(spec=PromptSpec.model_validate_json((folder / "policy.json").read_bytes()), info=info)


def manual_policy(catalogue: Catalogue) -> SinglePrompt:
    """Return the catalogue's manual prompt."""
    return SinglePrompt(spec=catalogue.manual_prompt, info=PolicyInfo(name="manual", version="builtin"))
