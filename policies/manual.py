"""Policies that serve one prompt to everybody: the manual prompt, and whatever a search found best."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from promptailor.policies.base import Decision, PolicyInfo
from promptailor.policies.types import StateInputs
from promptailor.prompts.guidance import load_guidance
from promptailor.prompts.patterns import Catalogue, PromptSpec, SentencePattern, check_sentence

Stopped = Literal["finished", "budget", "interrupted", "early"]
"""Why a search or a training run ended."""
MANUAL, MANUAL_PROFILE, CHAIN_OF_THOUGHT = "manual", "manual-profile", "chain-of-thought"
"""The built-in policies: the manual prompt, the same with every known field of the user's profile, and with reasoning
before the ranking."""


@dataclass(frozen=True, kw_only=True)
class SinglePrompt:
    """One prompt for every user (task-wise prompting); an `OneShotPolicy`."""

    kind: ClassVar[str] = "single-prompt"
    reads_embeddings: ClassVar[bool] = False
    spec: PromptSpec
    info: PolicyInfo
    sentences: Mapping[SentencePattern, str] = field(default_factory=dict)
    """Templates that replace the catalogue's sentences, where a search edited them (GRIPS)."""
    written: bool = False
    """Whether the answer reasons before it ranks, and so has to be written out."""
    stopped: Stopped = "finished"
    """Whether the search that found it ran to its end."""

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        """Return the prompt, whoever asks."""
        return Decision(spec=self.spec, sentences=self.sentences, written=self.written)

    @property
    def digest(self) -> str:
        """Hex digest of the prompt, and of what is written before it is made."""
        edited = json.dumps(dict(self.sentences), sort_keys=True) if self.sentences else ""
        profiling = self.info.profiling.model_dump_json() if self.info.profiling else ""
        return hashlib.sha256(f"{self.spec.model_dump_json()}{edited}{profiling}".encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write `policy.json`."""
        edited = {"sentences": dict(self.sentences)} if self.sentences else {}
        (folder / "policy.json").write_text(json.dumps(self.spec.model_dump() | edited, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path, info: PolicyInfo) -> SinglePrompt:
        """Read what `save` wrote; use `checkpoint.load_policy`, which checks that the files fit."""
        raw = json.loads((folder / "policy.json").read_text("utf-8"))
        sentences = raw.pop("sentences", {})
        for pattern, text in sentences.items():
            check_sentence(pattern, text)
        return cls(spec=PromptSpec.model_validate(raw), sentences=sentences, info=info)


def manual_policy(catalogue: Catalogue) -> SinglePrompt:
    """Return the catalogue's manual prompt."""
    return SinglePrompt(spec=catalogue.manual_prompt, info=PolicyInfo(name=MANUAL, version="builtin"))


def manual_policies(catalogue: Catalogue) -> dict[str, SinglePrompt]:
    """Return the prompts a person would write, by name: the manual one, and the same with the user's profile."""
    info = PolicyInfo(name=MANUAL_PROFILE, version="builtin")
    profile = SinglePrompt(spec=catalogue.manual_profile_prompt, info=info)
    reasoning = SinglePrompt(
        spec=catalogue.manual_prompt,
        sentences=load_guidance().chain_of_thought,
        written=True,
        info=PolicyInfo(name=CHAIN_OF_THOUGHT, version="builtin"),
    )
    return {MANUAL: manual_policy(catalogue), MANUAL_PROFILE: profile, CHAIN_OF_THOUGHT: reasoning}
