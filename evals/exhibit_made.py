"""What one exhibit shows, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass

from promptailor.evals.page_view import Figure, MovesOn, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What one exhibit shows."""

    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    cases: tuple[MovesOn, ...] = ()
    notes: tuple[str, ...] = ()
