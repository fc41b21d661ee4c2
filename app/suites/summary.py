"""What `ablate` did, and what it would do."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult


class Missing(BaseModel):
    """A run that could not be made."""

    what: str
    reason: str


class AblateSummary(BaseModel):
    """What `ablate` did."""

    folder: Path
    suite: str
    dataset: str
    trained: int
    """In this process."""
    evaluated: int
    """In this process."""
    kept: int
    """Runs that were there before."""
    missing: tuple[Missing, ...]
    skipped: tuple[str, ...]
    """What does not apply to this data set or these models."""
    seconds: float
    """What all runs in the folder took, over every process."""
    requests: int
    """What all runs in the folder sent to models."""

    @property
    def complete(self) -> bool:
        """Whether every planned run is there."""
        return not self.missing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in a few lines."""
        yield from (f"not here: {what}" for what in self.skipped)
        yield from (f"missing: {lack.what}: {lack.reason}" for lack in self.missing)
        yield f"{self.suite} on {self.dataset}: {self.trained} trained, {self.evaluated} evaluated, {self.kept} kept"
        yield f"{self.seconds:,.0f} s and {self.requests:,} requests in all; {self.folder}"


class PlanSummary(BaseModel):
    """What `ablate` would do."""

    folder: Path
    trainings: tuple[str, ...]
    """Those that are missing, with their settings."""
    evaluations: tuple[str, ...]
    """Those that are missing, with their rows."""
    kept: int
    """Runs that are there."""
    skipped: tuple[str, ...]
    training_calls: int
    """Model answers that the missing trainings take at most; equal prompts are asked once."""
    evaluation_calls: int
    """The same of the missing evaluations, their controls left out."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """List it."""
        yield from (f"train     {line}" for line in self.trainings)
        yield from (f"evaluate  {line}" for line in self.evaluations)
        yield from (f"not here  {line}" for line in self.skipped)
        yield f"{len(self.trainings)} to train, {len(self.evaluations)} to evaluate, {self.kept} there; {self.folder}"
        yield f"at most {self.training_calls:,} calls to train, {self.evaluation_calls:,} calls to evaluate"
