"""Policies that serve one prompt to everybody: the manual prompt, and whatever a search found best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from promptailor.policies.base import Decision, PolicyInfo
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import Catalogue, PromptSpec


@dataclass(frozen=True, kw_only=True)
class SinglePrompt:
    """One prompt for every user (task-wise prompting); an `OneShotPolicy`."""

    spec: PromptSpec
    info: PolicyInfo
    stopped: Literal["finished", "budget"] = "finished"
    """Whether the search that found it came to its end."""

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        """Return the prompt, whoever asks."""
        return Decision(spec=self.spec)


def manual_policy(catalogue: Catalogue) -> SinglePrompt:
    """Return the catalogue's manual prompt."""
    return SinglePrompt(spec=catalogue.manual_prompt, info=PolicyInfo(name="manual", version="builtin"))
