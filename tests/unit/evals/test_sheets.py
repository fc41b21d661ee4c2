from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.evals.sheets import Sheet, read_sheet
from promptailor.prompts.errors import InputError


def test_rows_of_a_commands_json_become_a_table(tmp_path: Path) -> None:
    path = tmp_path / "scaling-here.json"
    path.write_text(
        '[{"n_users": 100000, "split_s": 0.12345, "note": null}, {"n_users": 5, "split_s": 1234.5, "note": "x"}]'
    )
    assert read_sheet(path) == Sheet(
        id="scaling-here",
        title="Scaling here",
        head=("n users", "split s", "note"),
        rows=(("100,000", "0.1235", ""), ("5", "1,234", "x")),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1}', "valid array; it must be a list of rows"),
        ('[{"a": [1]}]', "it must be a list of rows"),
        ('[{"a": 1}, {"b": 1}]', "each with the same fields"),
        ("[]", "needs rows"),
    ],
)
def test_anything_else_is_an_error_that_names_the_file(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "scaling.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"scaling\.json: .*{problem}"):
        read_sheet(path)
