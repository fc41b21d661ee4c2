"""`promptailor explain` as its caller sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from promptailor.app.cli import app
from promptailor.prompts.errors import InputError

REQUEST = {
    "user_id": "u1",
    "domain": "movies",
    "history": [{"item_id": f"h{n}", "title": f"Old Film {n}"} for n in range(12)],
    "candidates": [{"item_id": f"c{n}", "title": f"Film [{n}]"} for n in range(6)],
}


@pytest.fixture
def explain(tmp_path: Path) -> Callable[..., str]:
    """Run the command on two requests, and return what it prints."""
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps(REQUEST | {"user_id": user}) for user in ("u1", "u2")))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["explain", "--model", "planted:1", "--input", str(file), *arguments])
        if result.exception:
            raise result.exception
        return result.output

    return run


def test_a_program_reads_one_object_and_asking_again_is_free(explain: Callable[..., str]) -> None:
    first, again = (json.loads(explain("--json")) for _ in range(2))
    assert [request["user_id"] for request in first["requests"]] == ["u1", "u2"]
    assert first["new_calls"] == first["llm_calls"] == 8, "role, history, guidance and format of two users"
    assert again["new_calls"] == 0
    assert [r["items"] for r in again["requests"]] == [r["items"] for r in first["requests"]]
    effect = first["requests"][0]["effects"][0]
    assert {"part", "choice", "reference", "change", "moves"} <= set(effect)
    assert {"item_id", "rank", "rank_without", "moved", "text"} == set(effect["moves"][0])


def test_a_person_reads_a_table_with_every_item_and_part(explain: Callable[..., str]) -> None:
    printed = explain()
    assert all(f"Film [{n}]" in printed for n in range(6)), "brackets in a title are no markup"
    assert all(part in printed for part in ("role", "history", "guidance", "format", "not 0"))


def test_one_item_is_told_of_in_sentences(explain: Callable[..., str]) -> None:
    moved = next(item for item in json.loads(explain("--json"))["requests"][0]["items"] if item["reasons"])
    printed = explain("--item", moved["item_id"])
    assert all(reason in printed for reason in moved["reasons"])


def test_an_item_that_is_no_candidate_is_refused(explain: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="--item h1: no candidate"):
        explain("--item", "h1")
