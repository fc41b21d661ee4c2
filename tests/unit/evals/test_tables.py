from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.evals.tables import TableSpec, read_columns
from promptailor.prompts.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def read(path: Path, content: str | bytes, table: TableSpec, *columns: str) -> list[list[str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_columns(path, table, [(column,) for column in columns])


def test_atomic_files_have_types_in_the_header_and_no_quoting(tmp_path: Path) -> None:
    content = '\ufeffid:token\ttitle:token_seq\r\n1\t"Quoted", he said\r\n2\ta\u2028b\x85c\r\n'
    titles, ids = read(tmp_path / "x", content, TableSpec(file="x"), "title", "id")
    assert (ids, titles) == (["1", "2"], ['"Quoted", he said', "a\u2028b\x85c"])


def test_csv_is_quoted(tmp_path: Path) -> None:
    content = '\ufeffid,name\n1,"Good, the Bad"\n2,"say ""hi"""\n3,"two\nlines"\n'
    (names,) = read(tmp_path / "x", content, TableSpec(file="x", format="csv"), "name")
    assert names == ["Good, the Bad", 'say "hi"', "two\nlines"]


def test_csv_may_have_no_header_and_another_separator(tmp_path: Path) -> None:
    table = TableSpec(file="x", format="csv", separator=";", header=("a", "b"))
    assert read(tmp_path / "x", "1;2\n3;4\n", table, "b") == [["2", "4"]]


def test_dat_has_no_header(tmp_path: Path) -> None:
    table = TableSpec(file="x", format="dat", header=("id", "title"), encoding="latin-1")
    assert read(tmp_path / "x", "1::Amélie\n".encode("latin-1"), table, "title") == [["Amélie"]]


def test_the_first_known_name_of_a_column_counts(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("b\tc\n1\t2\n")
    assert read_columns(tmp_path / "x", TableSpec(file="x"), [("a", "b", "c")]) == [["1"]]


def test_parquet_is_read_as_text_and_times_as_seconds(tmp_path: Path) -> None:
    columns = {"id": [1, None], "name": ["a", "b"], "when": pa.array([978300760, None], pa.timestamp("s"))}
    pq.write_table(pa.table(columns), tmp_path / "x")
    ids, times = read_columns(tmp_path / "x", TableSpec(file="x", format="parquet"), [("id",), ("when",)])
    assert ids == ["1", ""]
    assert times == ["978300760.0", ""]


@pytest.mark.parametrize(
    ("content", "table", "message"),
    [
        ("", TableSpec(file="x"), "x: no column 'id'; there are none"),
        ("name:token\tage\n", TableSpec(file="x"), "x: no column 'id'; there are name, age"),
        ("id\ta\n1\t2\n3\n", TableSpec(file="x"), r"x, data row 2: 1 field\(s\), expected 2"),
        ("id\n1\n2\t3\n", TableSpec(file="x"), r"x, data row 2: 2 field\(s\), expected 1"),
        ('id\n"1\n', TableSpec(file="x", format="csv"), "x: not a CSV file"),
        (b"id\n1\nAm\xe9lie\n", TableSpec(file="x"), "x, line 3: not utf-8 text .* set `encoding`"),
        ("not parquet", TableSpec(file="x", format="parquet"), "x: not a Parquet file"),
    ],
)
def test_damaged_files_are_one_line_errors(
    tmp_path: Path, content: str | bytes, table: TableSpec, message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / "x", content, table, "id")
    assert "\n" not in str(error.value)


def test_parquet_columns_must_be_there_and_flat(tmp_path: Path) -> None:
    pq.write_table(pa.table({"tags": [["a"], ["b", "c"]]}), tmp_path / "x")
    table = TableSpec(file="x", format="parquet")
    with pytest.raises(DataError, match="no column 'id'; there are tags"):
        read_columns(tmp_path / "x", table, [("id",)])
    with pytest.raises(DataError, match="column 'tags' holds list"):
        read_columns(tmp_path / "x", table, [("tags",)])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_columns(tmp_path, TableSpec(file="x"), [("id",)])
