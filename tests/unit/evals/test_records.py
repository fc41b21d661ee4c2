from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import JsonValue

from promptailor.evals.baselines.base import RankedUser
from promptailor.evals.records import RunFolder, UserRecord, append_lines, read_lines, to_record
from promptailor.evals.types import EvalCase
from promptailor.prompts.errors import InputError

CONFIG: dict[str, JsonValue] = {"methods": ["m"], "seed": 0}


@pytest.fixture
def rows(make_cases: Callable[..., list[EvalCase]]) -> list[UserRecord]:
    return [
        to_record(
            "m", case, RankedUser(user_id=case.user_id, ranking=tuple(i.item_id for i in case.request.candidates))
        )
        for case in make_cases(4)
    ]


def test_a_line_has_the_documented_fields(make_cases: Callable[..., list[EvalCase]]) -> None:
    case = make_cases(2, n_candidates=3)[1]
    assert case.slot == 1
    answer = RankedUser(
        user_id="u1",
        ranking=("u1-2", "u1-target", "u1-0"),
        llm_calls=3,
        invalid=True,
        rewrites=6,
        rejected_rewrites=2,
        prompt_digests=("aa", "bb"),
        actions=({"role_playing": 1}, {"role_playing": 0}),
        shown_slots=("u1-0", "u1-2", "u1-target"),
        step_rankings=(("u1-target", "u1-0", "u1-2"), ("u1-0", "u1-2")),
    )
    assert json.loads(to_record("rpp", case, answer).model_dump_json()) == {
        "method": "rpp",
        "user_id": "u1",
        "candidates": ["u1-0", "u1-target", "u1-2"],
        "ranking": ["u1-2", "u1-target", "u1-0"],
        "relevant_item_id": "u1-target",
        "slot": 1,
        "shown_slot": 2,
        "metrics": pytest.approx(
            {"ndcg@1": 0, "ndcg@5": 0.63093, "ndcg@10": 0.63093, "mrr@5": 0.5, "mrr@10": 0.5, "hr@1": 0, "hr@5": 1}
            | {"mean_rank": 2},
            abs=1e-5,
        ),
        "llm_calls": 3,
        "invalid": True,
        "rewrites": 6,
        "rejected_rewrites": 2,
        "prompt_digests": ["aa", "bb"],
        "actions": [{"role_playing": 1}, {"role_playing": 0}],
        "step_ranks": [1, None],
    }


@pytest.mark.parametrize(
    ("user_id", "ranking"),
    [
        ("u0", ("u0-1", "u0-2")),
        ("u0", ("u0-target", "u0-1", "u0-1")),
        ("u0", ("u0-target", "u0-1", "invented")),
        ("u9", ("u0-target", "u0-1", "u0-2")),
    ],
    ids=["short", "twice", "invented", "another user's"],
)
def test_a_ranking_that_is_no_permutation_is_refused(
    user_id: str, ranking: tuple[str, ...], make_cases: Callable[..., list[EvalCase]]
) -> None:
    with pytest.raises(InputError, match=r"method 'm'.*'u0'.*permutation"):
        to_record("m", make_cases(1, n_candidates=3)[0], RankedUser(user_id=user_id, ranking=ranking))


def test_a_torn_last_line_is_cut_off_and_only_that(tmp_path: Path, rows: list[UserRecord]) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, rows)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for kept in (1, len(last) // 2, len(last) - 1):  # killed anywhere inside the last line
        path.write_bytes(whole[: len(whole) - len(last) + kept])
        assert read_lines(path, UserRecord) == rows[:-1]
        append_lines(path, rows[-1:])
        assert path.read_bytes() == whole


def test_a_damaged_line_inside_is_an_error_that_names_it(tmp_path: Path, rows: list[UserRecord]) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, rows)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{}\n", *lines[2:]]))
    with pytest.raises(InputError, match="line 2"):
        read_lines(path, UserRecord)


def test_a_folder_remembers_what_was_finished(tmp_path: Path, rows: list[UserRecord]) -> None:
    first = RunFolder(tmp_path / "run", CONFIG, resume=False)
    first.append(rows[:2], 1.5, control=False)
    second = RunFolder(tmp_path / "run", CONFIG, resume=True)
    assert second.get("m", "u1") == rows[1]
    assert second.get("m", "u2") is None
    assert second.get("other", "u1") is None
    second.append(rows[2:], 0.5, control=False)
    assert second.seconds("m") == 2.0
    assert read_lines(tmp_path / "run" / "per_user.jsonl", UserRecord) == rows


def test_a_folder_is_not_overwritten_nor_resumed_as_something_else(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG, resume=False)
    with pytest.raises(InputError, match="already holds a run"):
        RunFolder(tmp_path, CONFIG, resume=False)
    with pytest.raises(InputError, match=r"its `seed` is 0, this run's is 1"):
        RunFolder(tmp_path, {**CONFIG, "seed": 1}, resume=True)


def test_what_a_stopped_run_did_not_finish_everywhere_is_set_aside_and_found_again(
    tmp_path: Path, rows: list[UserRecord]
) -> None:
    run = RunFolder(tmp_path, CONFIG, resume=False)
    run.append(rows, 1.0, control=False)
    run.finish(rows[:3], [])
    assert read_lines(tmp_path / "per_user.jsonl", UserRecord) == rows[:3]
    again = RunFolder(tmp_path, CONFIG, resume=True)
    assert again.get("m", "u3") == rows[3]
    again.finish(rows, [])
    assert read_lines(tmp_path / "per_user.jsonl", UserRecord) == rows
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "controls.jsonl",
        "per_user.jsonl",
        "timing.jsonl",
    ]
