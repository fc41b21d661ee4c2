"""Tables on disk: RecBole atomic files, CSV, MovieLens `.dat`, JSON lines and Parquet, read as columns of text."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from promptailor.prompts.domain import Model
from promptailor.prompts.errors import DataError, MissingExtraError

TableFormat = Literal["atomic", "csv", "dat", "jsonl", "parquet"]
"""`atomic`: tab-separated, a header of `name:type`, no quoting (RecBole). `csv`: quoted, with a header. `dat`: any
separator, no quoting, no header (MovieLens). `jsonl`: one object per line, perhaps compressed (`.gz`); a list's entries
are joined by `LIST_SEPARATOR`. `parquet`: typed columns."""
LIST_SEPARATOR = "|"

SEPARATORS: dict[TableFormat, str] = {"atomic": "\t", "csv": ",", "dat": "::"}

ColumnNames = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1),
]
"""A column's name, or the names it has in different editions of a file: the first that is there counts."""


class TableSpec(Model):
    """One file with one row per interaction, item or user."""

    file: str
    """Its name in the data set's folder, in any case."""
    format: TableFormat = "atomic"
    separator: str | None = Field(None, min_length=1)
    """Between the fields of a row; None for the format's usual one."""
    header: tuple[str, ...] = ()
    """Names of all columns, for a file without a header line."""
    encoding: str = "utf-8"

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"{encoding!r} is no text encoding") from None
        return encoding


def read_columns(path: Path, table: TableSpec, columns: Sequence[ColumnNames]) -> list[list[str]]:
    """Read the named columns of a table, in that order, as text; a missing value is an empty string.

    Raises:
        DataError: the file cannot be read or decoded, a column is missing, or a row has too few or too many fields.
    """
    if table.format == "parquet":
        return _read_parquet(path, columns)
    if table.format == "jsonl":
        return _read_jsonl(path, table.encoding, columns)
    try:
        with path.open(encoding=table.encoding, newline="" if table.format == "csv" else "\n") as lines:
            rows = _rows(lines, table)
            header = list(table.header) or _header(next(rows, []))
            places = [header.index(_present(names, header, path)) for names in columns]
            picked: list[list[str]] = [[] for _ in places]
            pairs = list(zip(picked, places, strict=True))
            for number, row in enumerate(rows, 1):
                if len(row) != len(header):
                    raise DataError(f"{path}, data row {number}: {len(row)} field(s), expected {len(header)}")
                for column, place in pairs:
                    column.append(row[place])
            return picked
    except UnicodeDecodeError as error:
        line = _undecodable_line(path, table.encoding)
        raise DataError(f"{path}, line {line}: not {table.encoding} text ({error.reason}); set `encoding`") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read_jsonl(path: Path, encoding: str, columns: Sequence[ColumnNames]) -> list[list[str]]:
    """Read JSON lines; a field that a row lacks is empty there, and one that every row lacks is an error."""
    picked: list[list[str]] = [[] for _ in columns]
    found = [False] * len(columns)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding=encoding) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number}: holds {type(row).__name__}; expected an object per line")
                for place, names in enumerate(columns):
                    name = next((name for name in names if name in row), None)
                    found[place] |= name is not None
                    picked[place].append(_cell(row.get(name), f"{path}, line {number}: {name!r}"))
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON lines ({str(error).splitlines()[0]})") from None
    for names, known in zip(columns, found, strict=True):
        if not known:
            raise DataError(f"{path}: no field {' or '.join(map(repr, names))} in any line")
    return picked


def _cell(value: object, where: str) -> str:
    if isinstance(value, list):
        return LIST_SEPARATOR.join(str(entry) for entry in value)
    if isinstance(value, dict):
        raise DataError(f"{where} holds an object; expected text, a number or a list")
    return "" if value is None else str(value)


def _rows(lines: Iterable[str], table: TableSpec) -> Iterator[list[str]]:
    separator = table.separator or SEPARATORS[table.format]
    if table.format == "csv":
        return csv.reader(lines, delimiter=separator, strict=True)
    return (line.rstrip("\r\n").split(separator) for line in lines)


def _header(first_row: Sequence[str]) -> list[str]:
    """Return the column names: without a byte order mark and without RecBole's types."""
    return [name.removeprefix("\ufeff").split(":")[0].strip() for name in first_row]


def _present(names: ColumnNames, header: Sequence[str], path: Path) -> str:
    for name in names:
        if name in header:
            return name
    raise DataError(f"{path}: no column {' or '.join(map(repr, names))}; there are {', '.join(header) or 'none'}")


def _undecodable_line(path: Path, encoding: str) -> int:
    """Return the number of the first line that is not text in this encoding, 0 where every line is."""
    with path.open("rb") as lines:
        return next((n for n, line in enumerate(lines, 1) if not _decodes(line, encoding)), 0)


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _read_parquet(path: Path, columns: Sequence[ColumnNames]) -> list[list[str]]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency that only Parquet needs
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("reading Parquet", "baselines") from None
    try:
        header = pq.read_schema(path).names
        names = [_present(alternatives, header, path) for alternatives in columns]
        table = pq.read_table(path, columns=list(dict.fromkeys(names)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    return [_texts(table.column(name), f"{path}: column {name!r}") for name in names]


def _texts(column: Any, where: str) -> list[str]:
    """Return an Arrow column's values as text, times as seconds."""
    import pyarrow as pa  # noqa: PLC0415 - an optional dependency that only Parquet needs

    if pa.types.is_nested(column.type):
        raise DataError(f"{where} holds {column.type}; expected text, numbers or times")
    if pa.types.is_temporal(column.type):
        microseconds = column.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
        return ["" if value is None else repr(value / 1e6) for value in microseconds]
    return ["" if value is None else str(value) for value in column.to_pylist()]
