"""`suite.json`: what of a suite is done on one data set, what it took, and what is missing and why."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from promptailor.app.suites.suite import Value
from promptailor.evals.page import DatasetSize
from promptailor.evals.records import write_text
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError

LEDGER = "suite.json"

Status = Literal["started", "done", "missing"]


class RowCost(Model):
    """What one row took in one evaluation."""

    method: str
    """The method's name in the records."""
    seconds: float
    llm_calls: int
    """Model answers, cached ones included."""
    training: str | None = None
    """Id of the training that made it."""
    extension: str | None = None
    """Id of what extended the catalogue of that training."""


class Entry(Model):
    """One training or evaluation."""

    digest: str
    """Of its settings: others make another run."""
    status: Status
    reason: str | None = None
    """Why it is missing."""
    seconds: float = 0.0
    """Over every part of a resumed run."""
    requests: int = 0
    """Sent to models; answers that another run had bought are not among them."""
    command: str = ""
    commit: str | None = None
    group: str | None = None
    """None for a training."""
    point: Value | None = None
    """Value of the group's sweep, or slot of its models."""
    seed: int = 0
    rows: dict[str, RowCost] = Field(default_factory=dict)
    """By label; of an evaluation."""
    missing: dict[str, str] = Field(default_factory=dict)
    """Rows of an evaluation that failed, by label, and why."""


class Ledger(Model):
    """Everything that a suite has done on one data set."""

    schema_version: Literal[1] = 1
    suite: str
    dataset: str
    model: str | None = None
    """Asked in every group that names none of its own; None for what ships with the data set."""
    size: DatasetSize
    entries: dict[str, Entry] = Field(default_factory=dict)
    """By folder, relative to this file's."""

    @property
    def seconds(self) -> float:
        """What all of it took."""
        return sum(entry.seconds for entry in self.entries.values())

    @property
    def requests(self) -> int:
        """What all of it sent to models."""
        return sum(entry.requests for entry in self.entries.values())


def read_ledger(folder: Path) -> Ledger | None:
    """Read a data set's ledger; None where there is none yet.

    Raises:
        InputError: it is damaged.
    """
    path = folder / LEDGER
    try:
        return Ledger.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise InputError(f"{path}: {reason}; delete the file, and finished runs are looked through again") from None


def write_entry(folder: Path, ledger: Ledger, name: str, entry: Entry) -> Ledger:
    """Keep an entry and return the ledger with it; entries that another process has written meanwhile stay."""
    there = read_ledger(folder) or ledger
    ledger = there.model_copy(update={"entries": {**there.entries, name: entry}})
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / LEDGER, ledger.model_dump_json(indent=2) + "\n")
    return ledger
