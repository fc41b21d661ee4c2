"""What a page of results shows: tables and curves, each cell naming the runs it is read from.

An exhibit holds no number of its own. It says which method of which run folder belongs where, so a page can be made
again from the folders alone, and every number on it can be traced to a command and a commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from promptailor.evals.metrics import PRIMARY
from promptailor.prompts.domain import Model

ExhibitKind = Literal["table", "curve", "bars"]
"""A table of rows; curves of `Row.series` over `Row.x`; or bars, one per row and data set."""


class RunMethod(Model):
    """One method of one evaluation."""

    folder: Path
    """A folder that `evaluate` wrote."""
    method: str
    """The method's name in its records."""
    training: Path | None = None
    """Folder of the training run that made it; None where nothing was learned."""


class Row(Model):
    """One row of a table, or one point of a curve."""

    label: str
    """How the paper calls it, where it is the paper's."""
    runs: Mapping[str, tuple[RunMethod, ...]]
    """By data set, one per seed; a data set without an entry was not run."""
    series: str | None = None
    """The curve the point belongs to; None in tables."""
    x: float | str | None = None
    """Where on the curve."""
    upper_bound: bool = False
    """Whether it was told something that no method may know, such as the best step: shown as a bound, not a result."""


class Exhibit(Model):
    """One table or figure."""

    id: str
    """As the paper numbers it, such as `table-2` or `figure-4`, or a name of our own."""
    title: str
    kind: ExhibitKind = "table"
    measures: tuple[str, ...] = (PRIMARY,)
    x_label: str = ""
    rows: tuple[Row, ...] = Field(min_length=1)
    differs: str = ""
    """What of the protocol differs from the paper's, for this exhibit."""
    commands: tuple[str, ...] = ()
    """What makes its runs."""
