"""The versions of an instruction that a run tried: what each came from, what it was told, and how it was judged."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from promptailor.policies.acceptance import Verdict
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import CheckpointError, InputError
from promptailor.prompts.guidance import Drop, Subject

LINEAGE_FILE = "prompts.json"
"""In a run's folder, beside its policy."""


class PromptVersion(Model):
    """One round: a rewrite, or why there was none."""

    number: int = Field(ge=0)
    """0 is the instruction that training began with."""
    parent: int | None = None
    """The version that was rewritten; None for the first."""
    text: str | None = None
    """A template of domain words; None where the round brought no text that may be used."""
    reason: Drop | Literal["no_feedback", "no_change"] | None = None
    """Why there is no text: a guard, or nobody had advice that could be read, or nobody wanted a change."""
    feedback: str = ""
    """The batch's advice, as the rewriter was told it."""
    users: tuple[str, ...] = ()
    """The batch that gave it."""
    n_failed: int = 0
    """Users of the batch whose choice was not ranked first."""
    mean_rank: float | None = None
    """Of what the batch chose, with the parent."""
    mean_reward: float | None = None
    """Mean NDCG of the batch, with the parent."""
    n_unread: int = 0
    """Answers of the critic that could not be read."""
    n_unwritten: int = 0
    """Users of the batch whose profile could not be read; they were ranked for without one."""
    verdict: Verdict | None = None
    """None for the first version and where there is no text."""
    calls: int = 0
    """Model answers of the run when the round was over."""

    @property
    def accepted(self) -> bool:
        """Whether later versions build on it."""
        return self.parent is None or (self.verdict is not None and self.verdict.accepted)


class Lineage(Model):
    """All versions of a run, and which of them is served."""

    schema_version: Literal[1] = 1
    subject: Subject = "profile"
    versions: tuple[PromptVersion, ...] = Field(min_length=1)
    pinned: int | None = None
    """A version that somebody chose to serve; None serves the last accepted one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if [version.number for version in self.versions] != list(range(len(self.versions))):
            raise ValueError("versions: their numbers must count from 0")
        if self.versions[0].text is None:
            raise ValueError("versions: the first has no text")
        if self.pinned is not None and (self.pinned >= len(self.versions) or self.versions[self.pinned].text is None):
            raise ValueError(f"pinned: version {self.pinned} has no text")
        return self

    @property
    def learned(self) -> PromptVersion:
        """The last accepted version."""
        return next(version for version in reversed(self.versions) if version.accepted)

    @property
    def served(self) -> PromptVersion:
        """The pinned version, or the last accepted one."""
        return self.learned if self.pinned is None else self.versions[self.pinned]

    @property
    def instruction(self) -> str:
        """The text that is served."""
        assert self.served.text is not None, "accepted and pinned versions have texts"
        return self.served.text

    @property
    def proposed(self) -> int:
        """Rewrites that passed the guards and were judged."""
        return sum(version.verdict is not None for version in self.versions)

    @property
    def n_accepted(self) -> int:
        """Rewrites that were accepted."""
        return sum(version.accepted for version in self.versions) - 1

    def version(self, number: int) -> PromptVersion:
        """Return a version; an unknown number is an `InputError`."""
        if not 0 <= number < len(self.versions):
            raise InputError(f"version {number}: there are 0 to {len(self.versions) - 1}")
        return self.versions[number]

    def added(self, version: PromptVersion) -> Lineage:
        """Return the lineage with one more version."""
        return self.model_copy(update={"versions": (*self.versions, version)})

    def pin(self, number: int | None) -> Lineage:
        """Return the lineage that serves a version whatever was learned; None serves what was learned again."""
        if number is not None and self.version(number).text is None:
            raise InputError(f"version {number}: has no text ({self.version(number).reason}); pin another")
        return self.model_copy(update={"pinned": number})

    def rollback(self) -> Lineage:
        """Return the lineage that serves the parent of what is served; the first version has none (`InputError`)."""
        if self.served.parent is None:
            raise InputError(f"version {self.served.number}: is the first; there is nothing to go back to")
        return self.pin(self.served.parent)

    def diff(self, before: int, after: int) -> str:
        """Return a unified diff of two versions' texts, line by line."""
        texts = [(number, self.version(number).text or "") for number in (before, after)]
        (a, old), (b, new) = texts
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"version {a}", f"version {b}", lineterm="")
        return "\n".join(lines)


def read_lineage(folder: Path) -> Lineage:
    """Read a run's versions.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    path = folder / LINEAGE_FILE
    try:
        return Lineage.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; name the folder of a `train --policy agp` run") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: {where + ': ' if where else ''}{first['msg']}; train the run again") from None
