"""Tables that other commands measured, such as time and memory against the number of users, for a page of results."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError

_ROWS = TypeAdapter(list[dict[str, int | float | str | None]])


class Sheet(Model):
    """A table that is shown as it is."""

    id: str
    title: str
    head: tuple[str, ...] = Field(min_length=1)
    rows: tuple[tuple[str, ...], ...]
    """As many cells as `head` each."""

    @model_validator(mode="after")
    def _rectangular(self) -> Sheet:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"sheet {self.id!r}: every row needs {len(self.head)} cells, as its head has")
        return self


def read_sheet(path: Path) -> Sheet:
    """Read what a command's `--json` printed where that is a list of flat objects, one per row; named after the file.

    Raises:
        InputError: it is something else, or its rows have different fields.
    """
    try:
        rows = _ROWS.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where + ': ' if where else ''}{first['msg']}; it must be a list of rows") from None
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise InputError(f"{path}: needs rows, each with the same fields")
    return Sheet(
        id=path.stem,
        title=path.stem.replace("-", " ").replace("_", " ").capitalize(),
        head=tuple(name.replace("_", " ") for name in rows[0]),
        rows=tuple(tuple(_shown(value) for value in row.values()) for row in rows),
    )


def _shown(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value or ""
