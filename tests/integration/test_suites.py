"""The smoke suite on real data, as CI runs it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from promptailor.app.data import list_datasets
from promptailor.app.suites.suite import load_suite
from tests.integration.commands import run_here

pytestmark = pytest.mark.slow

LIMIT_S = 180.0


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    done = run_here(*arguments, environment={"PROMPTAILOR_HOME": str(home)})
    assert done.returncode == 0, done.stderr
    return done


def test_the_smoke_suite_makes_its_page_in_time_and_a_second_go_does_nothing(tmp_path: Path) -> None:
    folder = os.environ.get("PROMPTAILOR_DATA")
    if not folder or not any(d.present for d in list_datasets(Path(folder)) if d.name == "ml-100k"):
        pytest.skip("PROMPTAILOR_DATA names no folder with ml-100k")
    ablate = ["ablate", "--suite", "smoke", "--out", str(tmp_path / "runs"), "--json"]
    cpu = os.times()
    started = time.perf_counter()
    first = json.loads(run(*ablate, home=tmp_path / "home").stdout)
    out = tmp_path / "page"
    page = json.loads(
        run("report", "--suite", "smoke", "--runs", str(tmp_path / "runs"), "--out", str(out), "--json",
            home=tmp_path / "home").stdout
    )  # fmt: skip
    took = time.perf_counter() - started
    used = sum(os.times()[:4]) - sum(cpu[:4])
    assert min(took, used) < LIMIT_S, "other processes may share the machine, so its processor time counts as well"
    assert first["missing"] == []
    assert page["empty"] == ["table-4"], "no models were given for it"
    exhibits = [exhibit.id for group in load_suite("smoke").groups for exhibit in group.exhibits]
    html = (out / "results.html").read_text("utf-8")
    assert all(f'id="{name}"' in html for name in exhibits)
    assert "0." in (out / "results.md").read_text("utf-8")

    again = json.loads(run(*ablate, home=tmp_path / "home").stdout)
    assert (again["trained"], again["evaluated"]) == (0, 0)
    assert again["requests"] == first["requests"]
