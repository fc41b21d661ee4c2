"""What a page shows, as cells and figures: the one thing that its HTML and its Markdown are both written from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from promptailor.evals.case_studies import Moves
from promptailor.evals.statistics import ALPHA, Comparison, Estimate


class Bar(NamedTuple):
    """A bar of a chart; `printed` is what a paper says."""

    label: str
    value: Estimate
    printed: float | None = None
    upper_bound: bool = False


class CostPoint(NamedTuple):
    """A method as a point."""

    label: str
    calls: float
    """Model calls per user."""
    value: Estimate


Points = Sequence[tuple[float | str, Estimate]]
"""A line: x and value; x that are words stand in the order in which they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: our figure, how sure it is, and the paper's."""

    text: str = ""
    small: str = ""
    """Interval over users, or what else belongs to the figure."""
    seeds: str = ""
    """Standard deviation over seeds, where there are several."""
    printed: str = ""
    """What the paper says; empty where it says nothing."""
    code: bool = False
    """Whether it is a command: long, and to be copied."""
    best: bool = False
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of a table."""

    label: str
    cells: tuple[Cell, ...]
    upper_bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns, which may stand in groups such as data sets."""

    caption: str
    corner: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]
    groups: tuple[tuple[str, int], ...] = ()
    """Names over so many columns each; empty for none."""
    folded: bool = False
    """Whether it only holds the numbers of a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing, made when the page that can show it is."""

    caption: str
    draw: Callable[[], str]
    """Returns SVG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovesOn:
    """Case studies of one data set."""

    dataset: str
    moves: tuple[Moves, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One planned comparison, and what the paper has for it."""

    exhibit: str
    dataset: str
    comparison: Comparison
    n_users: int
    n_seeds: int
    printed: float | None
    """The paper's difference of means."""

    @property
    def outcome(self) -> str:
        """`gain`, `loss`, or `no difference shown`."""
        if self.comparison.p_holm >= ALPHA:
            return "no difference shown"
        return "gain" if self.comparison.difference > 0 else "loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """An exhibit, ready to be written."""

    id: str
    title: str
    differs: str = ""
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    cases: tuple[MovesOn, ...] = ()
    findings: tuple[Finding, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView:
    """A whole page, ready to be written."""

    title: str
    about: str
    summary: tuple[str, ...]
    findings: Table | None
    """All planned comparisons; None where there are none."""
    facts: dict[str, str]
    sections: tuple[Section, ...]
