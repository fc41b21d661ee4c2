"""What a page of results shows: tables and curves, each cell naming the runs it is read from.

An exhibit holds no number of its own. It says which method of which run folder belongs where, so a page can be made
again from the folders alone, and every number on it can be traced to a command and a commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from promptailor.evals.metrics import PRIMARY
from promptailor.prompts.domain import Model

ExhibitKind = Literal[
    "table",
    "curve",
    "bars",
    "cost",
    "learning",
    "headroom",
    "slots",
    "popularity",
    "sentences",
    "steps",
    "cases",
    "admissions",
    "rounds",
]
"""What is made of the rows.

`table`: rows x (data set x measure), as the paper prints them. `curve`: `Row.series` over `Row.x`. `bars`: one bar per
row. `cost`: quality against calls per user. `learning`: the training runs' logs. `headroom`: the gain decomposition of
the runs. `slots` and `popularity`: quality by place and by popularity of the relevant item. `sentences`: how many users
got which sentence. `steps`: what was served beside the best step after the fact. `cases`: users whose ranking moved
between the first row's prompt and a later row's. `admissions`: the sentences proposed for the rows' catalogue, and what
they did. `rounds`: the rewrites that the rows' AGP runs proposed, and what became of them.
"""


class RunMethod(Model):
    """One method of one evaluation."""

    folder: Path
    """A folder that `evaluate` wrote."""
    method: str
    """The method's name in its records."""
    training: Path | None = None
    """Folder of the training run that made it; None where nothing was learned."""
    extension: Path | None = None
    """Folder where the catalogue was extended that it was trained with; None where it was not."""


class Row(Model):
    """One row of a table, or one point of a curve."""

    label: str
    """How the paper calls it, where it is the paper's; each row of an exhibit has a label of its own."""
    runs: Mapping[str, tuple[RunMethod, ...]]
    """By data set, one per seed; a data set without an entry was not run."""
    series: str | None = None
    """The curve the point belongs to; None in tables."""
    x: float | str | None = None
    """Where on the curve."""
    commands: Mapping[str, str] = Field(default_factory=dict)
    """By data set, what makes its runs; shown where they are missing."""
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
    datasets: tuple[str, ...] = ()
    """Columns, in order, whether run or not; empty for those that some row was run on."""
    rows: tuple[Row, ...] = Field(min_length=1)
    compare: tuple[tuple[str, str], ...] = ()
    """Labels (a, b) of rows that were planned to be compared, each a minus b on the same users."""
    differs: str = ""
    """What of the protocol differs from the paper's, for this exhibit."""
    commands: tuple[str, ...] = ()
    """What makes its runs."""

    @model_validator(mode="after")
    def _rows_are_named(self) -> Exhibit:
        labels = [row.label for row in self.rows]
        if twice := [label for label, n in Counter(labels).items() if n > 1]:
            raise ValueError(f"{self.id}: two rows are called {twice[0]!r}; say in the label what sets them apart")
        if unknown := [label for pair in self.compare for label in pair if label not in labels]:
            raise ValueError(f"{self.id}: compare: there is no row {unknown[0]!r}; there are {', '.join(labels)}")
        return self
