from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptailor.evals.protocol import read_cases, write_cases
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Item, RankRequest, UserProfile
from promptailor.prompts.errors import DataError


def case_of(user_id: str, *, slot: int | None, title: str = "A title") -> EvalCase:
    """Ten candidates, the relevant one at `slot`, or missed."""
    ids = [f"i{n}" for n in range(10)]
    request = RankRequest(
        user_id=user_id,
        history=(Item(item_id="old", title=title, categories=("Drama",)),),
        candidates=tuple(Item(item_id=item_id, title=title) for item_id in ids),
        domain="movies",
        user_profile=UserProfile(age="25"),
    )
    return EvalCase(request=request, relevant_item_id="missed" if slot is None else ids[slot], slot=slot)


def test_written_cases_read_back_the_same(tmp_path: Path) -> None:
    # A retriever may have missed the target; a title may hold any character.
    missed = case_of("u3", title="a\n\u2028\0é", slot=None)
    cases = (case_of("u1", slot=0), case_of("u2", slot=9), missed)
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl") == cases
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    cases = (case_of("u0", slot=3), case_of("u1", slot=4))
    write_cases(path, cases)

    def broken() -> Any:
        yield cases[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cases(path, broken())
    assert read_cases(path) == cases
    assert [p.name for p in tmp_path.iterdir()] == ["cases.jsonl"]


def damage(change: Callable[[dict[str, Any]], None]) -> str:
    """Return two lines of cases, the second changed."""
    lines: list[dict[str, Any]] = []
    for case in (case_of("u0", slot=3), case_of("u1", slot=4)):
        request = case.request.model_dump()
        lines.append({"request": request, "relevant_item_id": case.relevant_item_id, "slot": case.slot})
    change(lines[1])
    return "".join(json.dumps(line) + "\n" for line in lines)


def duplicate_negative(line: dict[str, Any]) -> None:
    candidates = list(line["request"]["candidates"])
    del candidates[line["slot"]]
    candidates[-1] = candidates[0]
    line["request"]["candidates"] = candidates
    line["slot"] = None


def target_twice(line: dict[str, Any]) -> None:
    candidates = list(line["request"]["candidates"])
    line["request"]["candidates"] = [*candidates, candidates[line["slot"]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (target_twice, "stands among the negatives"),
        (lambda line: line.update(slot=None), "stands among the negatives"),
        (duplicate_negative, "occurs twice"),
        (lambda line: line.update(slot=(line["slot"] + 1) % 10), "does not hold the relevant item"),
        (lambda line: line.update(slot=10), "slot 10 does not hold"),
        (lambda line: line.update(slot=-1), "slot -1 does not hold"),
        (
            lambda line: line["request"].update(candidates=line["request"]["candidates"][:1]),
            "one candidate leaves nothing",
        ),
        (lambda line: line["request"].update(candidates=[]), "request.candidates: .* at least 1 item"),
        (lambda line: line.pop("relevant_item_id"), "relevant_item_id: Field required"),
        (lambda line: line["request"].update(user_id="u0"), "user 'u0' already stands in line 1"),
    ],
)
def test_damaged_cases_are_named_with_their_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(damage(change), "utf-8")
    with pytest.raises(DataError, match=rf"cases\.jsonl, line 2: .*{message}") as error:
        read_cases(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no case in it"),
        (b"{\n", "line 1: Invalid JSON"),
        (b'{"relevant_item_id": "\xff"}\n', "line 1: Invalid JSON"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_cases_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "cases.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_cases(path)
