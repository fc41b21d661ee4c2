"""Training runs as a user starts, kills, resumes and evaluates them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from promptailor.app.backends.store import ResponseStore
from tests.integration.commands import run_here

pytestmark = pytest.mark.slow

PROMPTAILOR = str(Path(sys.executable).with_name("promptailor"))
PLANTED = ["--dataset", "planted", "--model", "planted:1"]
TRAIN = ["train", "--policy", "rpp", *PLANTED, "--users", "20", "--calls", "380"]
RANK = ["rank", "--input", "missing.jsonl", "--output", "o.jsonl", "--model", "planted:1"]
APART = (["train", "--policy", "nope"], [*RANK, "--model", "embedded:nope"])
"""Bad commands that are run as a shell does, where the libraries may print, too."""


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Train the planted world's embeddings once for all tests of this file."""
    HOME["PROMPTAILOR_HOME"] = str(tmp_path_factory.mktemp("home"))


HOME: dict[str, str] = {}


def environment() -> dict[str, str]:
    return os.environ | HOME | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in this process."""
    done = run_here(*arguments, environment=HOME)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def run_apart(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does."""
    return subprocess.run([PROMPTAILOR, *arguments], capture_output=True, text=True, env=environment(), check=False)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a command that is to be stopped."""
    command = [PROMPTAILOR, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def wait_for_requests(process: subprocess.Popen[str], folder: Path, n: int) -> None:
    """Return when a training run has had `n` answers."""
    store = ResponseStore(folder / "responses.sqlite")
    while store.requests < n:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An unbroken training run, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, json.loads(run(*TRAIN, "--out", str(folder), "--json").stdout)


def fingerprint(folder: Path) -> dict[str, str]:
    """Return a digest of everything a training run leaves behind, except when it happened."""
    files = [*folder.glob("training.jsonl"), *sorted(p for p in (folder / "policy").rglob("*") if p.is_file())]
    assert files, f"{folder} holds no policy"
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("preset", ["on-policy", "paper"])
def test_the_other_learners_train_a_policy_that_serves(tmp_path: Path, preset: str) -> None:
    out = tmp_path / "run"
    done = json.loads(
        run(*TRAIN, "--users", "10", "--steps", "4", "--preset", preset, "--out", str(out), "--json").stdout
    )
    assert done["stopped"] in ("finished", "early")
    (tmp_path / "in.jsonl").write_text(
        GOOD.replace('"history": []', '"history": [{"item_id": "h", "title": "H"}]') + "\n"
    )
    rank = ["rank", "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    run(*rank, "--policy", f"rpp={out}", "--model", "planted:1")
    assert json.loads((tmp_path / "out.jsonl").read_text())["policy"] == "rpp"


@pytest.mark.parametrize("policy", ["rpp", "bandit", "enumeration"])
def test_a_run_killed_at_random_points_and_resumed_equals_the_unbroken_run(tmp_path: Path, policy: str) -> None:
    train = [*TRAIN]
    train[2] = policy
    whole = json.loads(run(*train, "--out", str(tmp_path / "whole"), "--json").stdout)
    rng, broken, points = random.Random(policy), tmp_path / "broken", 2
    for point in range(points):
        process = start(*train, "--out", str(broken), *(["--resume"] if point else []))
        share = rng.uniform(point, point + 1) / points
        wait_for_requests(process, broken, 1 + int(share * 0.9 * whole["llm_requests"]))
        time.sleep(rng.uniform(0.0, 0.2))
        process.kill()
        process.communicate()
    resumed = json.loads(run(*train, "--out", str(broken), "--resume", "--json").stdout)
    assert fingerprint(broken) == fingerprint(tmp_path / "whole")
    for summary in (resumed, whole):
        del summary["folder"], summary["encoder_calls"], summary["cache_hits"]  # of this process
    assert resumed == whole


def test_ctrl_c_ends_training_with_a_usable_policy_and_resume_goes_on_to_the_same_result(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    folder, summary = whole
    out = tmp_path / "stopped"
    process = start(*TRAIN, "--out", str(out), "--json")
    wait_for_requests(process, out, 100)
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "Stopping after the requests in flight" in complaints
    assert "Traceback" not in complaints
    assert json.loads(said)["stopped"] == "interrupted"
    assert json.loads((out / "policy" / "manifest.json").read_text())["stopped"] == "interrupted"
    again = json.loads(run(*TRAIN, "--out", str(out), "--resume", "--json").stdout)
    assert (again["llm_requests"], again["stopped"]) == (summary["llm_requests"], summary["stopped"])
    assert fingerprint(out) == fingerprint(folder)


def test_a_recorded_run_is_replayed_without_its_model_and_gives_the_same_policy(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    recorded, replayed = whole[0], tmp_path / "replayed"
    arguments = [f"replay:{recorded}" if part == "planted:1" else part for part in TRAIN]
    summary = json.loads(run(*arguments, "--out", str(replayed), "--json").stdout)
    assert summary["llm_requests"] == 0
    assert summary["cache_hits"] >= whole[1]["llm_requests"] > 300
    assert fingerprint(replayed) == fingerprint(recorded)
    other = run(*arguments, "--seed", "1", "--out", str(tmp_path / "other"), check=False)
    assert other.returncode == 2
    assert "holds no answer to this prompt" in other.stderr


def test_a_recorded_evaluation_is_replayed_to_the_same_records(tmp_path: Path) -> None:
    evaluate = ["evaluate", "--dataset", "planted", "--methods", "identity,manual", "--users", "20"]
    run(*evaluate, "--model", "planted:1", "--out", str(tmp_path / "recorded"))
    summary = json.loads(
        run(*evaluate, "--model", f"replay:{tmp_path / 'recorded'}", "--out", str(tmp_path / "again"), "--json").stdout
    )
    assert summary["spent"]["calls"] == 0
    records = [(tmp_path / name / "per_user.jsonl").read_bytes() for name in ("recorded", "again")]
    assert records[0] == records[1]


def test_a_budget_stops_training_with_a_usable_policy(tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = json.loads(run(*TRAIN, "--budget", "calls=150", "--out", str(out), "--json").stdout)
    assert summary["stopped"] == "budget"
    assert summary["llm_requests"] <= 150
    assert json.loads((out / "policy" / "manifest.json").read_text())["stopped"] == "budget"
    evaluated = run(
        "evaluate", *PLANTED, "--methods", f"random,manual,rpp={out}",
        "--users", "30", "--out", str(tmp_path / "evaluate"), "--json",
    )  # fmt: skip
    report = json.loads(evaluated.stdout)["report"]
    assert set(report["methods"]) == {"random", "manual", "rpp"}
    more = json.loads(run(*TRAIN, "--budget", "calls=5000", "--out", str(out), "--resume", "--json").stdout)
    assert more["stopped"] == "finished"
    assert more["llm_requests"] > 150


def test_an_evaluation_cut_short_by_its_budget_says_so_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "evaluate"
    command = [
        "evaluate",
        "--dataset",
        "planted",
        "--model",
        "planted:1",
        "--methods",
        "identity,manual",
        "--users",
        "150",
    ]
    short = run(*command, "--budget", "calls=70", "--out", str(out), check=False)
    assert short.returncode == 3, short.stderr
    assert json.loads((out / "report.json").read_text())["incomplete"]


def test_a_search_within_an_evaluation_is_paid_from_its_budget(tmp_path: Path) -> None:
    out = tmp_path / "evaluate"
    command = ["evaluate", *PLANTED, "--methods", "identity,random-search", "--users", "20", "--out", str(out)]
    short = run(*command, "--budget", "calls=200", check=False)
    assert short.returncode == 3, short.stderr
    assert ResponseStore(out / "searched" / "random-search" / "responses.sqlite").requests == 200
    assert ResponseStore(out / "responses.sqlite").requests == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--policy", "rpp", *PLANTED, "--calls", "500"], "--calls 500: one update and 2 validations take"),
        (["train", "--policy", "nope"], "--policy 'nope': unknown; there are rpp"),
        (["train", "--policy", "rpp", "--dataset", "nope"], "nope"),
        (["train", "--policy", "rpp", "--dataset", "planted", "--model", "nope:1"], "planted"),
        (["train", "--policy", "rpp", "--dataset", "planted", "--model", "planted:9"], "planted:9"),
        (
            ["train", "--policy", "rpp", "--dataset", "planted", "--model", "planted:1", "--users", "9999"],
            "--users 9999",
        ),
        (
            ["train", "--policy", "rpp", "--dataset", "planted", "--model", "planted:1", "--budget", "money=3"],
            "calls=N",
        ),
        (["evaluate", "--methods", "rpp", "--dataset", "planted"], "write rpp=FOLDER"),
        (["evaluate", "--methods", "nope"], "--methods 'nope': unknown"),
        (["evaluate", "--methods", "identity", "--dataset", "planted", "--users", "0"], "--users '0'"),
        (RANK, "missing.jsonl"),
        ([*RANK, "--policy", "rpp=missing"], "missing"),
        ([*RANK, "--model", "openai:gpt"], "set OPENAI_API_KEY, or name a compatible server with ?base_url=URL"),
        ([*RANK, "--model", "embedded:nope"], "embedded model 'nope': there are games, lastfm, ml-100k, ml-1m"),
        ([*RANK, "--model", "nope:1"], "unknown provider 'nope'; there are embedded, transformers, vllm, openai"),
        ([*RANK, "--catalogue", "nope.yaml"], "nope.yaml"),
        (["train", "--policy", "rpp", "--dataset", "ml-100k"], "promptailor data get ml-100k"),
        (
            ["train", "--policy", "rpp", "--dataset", "ml-100k", "--model", "planted:1"],
            "--model planted:1: a simulated model goes with --dataset planted",
        ),
    ],
)
def test_bad_input_is_one_line_with_the_fix_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    extra = [] if arguments[0] == "rank" else ["--out", str(tmp_path / "out")]
    monkeypatch.setenv("PROMPTAILOR_DATA", str(tmp_path))
    done = run_apart(*arguments, *extra) if arguments in APART else run(*arguments, *extra, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "config.json").exists(), "a run that never began must not ask for --resume"


ONE = '{"user_id": 1, "history": [], "candidates": [{"item_id": "a", "title": "A"}]}'
TWICE = '{"user_id": 1, "history": [], "candidates": [{"item_id": "a", "title": "A"}, {"item_id": "a", "title": "A"}]}'
BARE = '{"user_id": 1, "history": [], "candidates": ["7", "8"]}'
GOOD = '{"user_id": 1, "history": [], "candidates": [{"item_id": "a", "title": "A"}, {"item_id": "b", "title": "B"}]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (ONE, "line 1: candidates: List should have at least 2 items"),
        (TWICE, "candidates: item 'a' occurs twice; list each candidate once"),
        (BARE, "candidates: unknown item id '7'; no catalogue is loaded: pass {item_id, title} or --dataset"),
        ('{"user_id": 1,', "line 1: not JSON"),
        ('{"user_id": 1, "history": [], "candidates": "a"}', "line 1: candidates: Input should be a valid list"),
        (GOOD.replace("}]}", '}], "relevant_item_ids": ["a"]}'), "line 1: relevant_item_ids: Extra inputs"),
    ],
    ids=["one candidate", "duplicate", "unknown bare id", "not JSON", "wrong type", "a label"],
)
def test_a_bad_request_is_one_line_that_names_the_field(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "in.jsonl").write_text(line + "\n", "utf-8")
    answers = tmp_path / "out.jsonl"
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(answers)]
    done = run("rank", *files, "--model", "planted:1", check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not answers.exists()


def test_ranking_that_was_cut_short_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    lines = [GOOD.replace('"title": "A"', f'"title": "A of user {user}"') for user in range(60)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    answers = tmp_path / "out.jsonl"
    rank = ["rank", "--input", str(tmp_path / "in.jsonl"), "--output", str(answers), "--model", "planted:1"]
    short = run_apart(*rank, "--budget", "calls=25")  # its open files go with it
    assert short.returncode == 2
    assert "the budget of 25 calls is spent" in short.stderr
    assert not answers.exists()
    run(*rank, "--budget", "calls=60")
    whole = answers.read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.jsonl"]
    run(*rank)
    assert [json.loads(line)["items"] for line in answers.read_text("utf-8").splitlines()] == [
        json.loads(line)["items"] for line in whole.splitlines()
    ]


def test_a_server_that_is_not_there_is_one_line_with_the_true_reason(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(GOOD + "\n", "utf-8")
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    done = run("rank", *files, "--model", "openai:m?base_url=http://127.0.0.1:9/v1&attempts=3", check=False)
    assert done.returncode == 2
    assert "failed 3 times; the last time: " in done.stderr
    assert "ConnectionRefusedError" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_policy_is_not_served_with_another_model_or_catalogue(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("train", "--policy", "enumeration", *PLANTED, "--users", "10", "--calls", "120", "--out", str(out))
    (tmp_path / "in.jsonl").write_text(GOOD + "\n", "utf-8")
    rank = ["rank", "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    served = [*rank, "--policy", f"enumeration={out}", "--model"]
    other = run(*served, "planted:2", check=False)
    assert other.returncode == 2
    assert "was trained with --model planted:1, not planted:2" in other.stderr
    catalogue = tmp_path / "mine.yaml"
    shipped = resources.files("promptailor.prompts.catalogue").joinpath("patterns.yaml").read_text("utf-8")
    catalogue.write_text(shipped.replace("one number per line", "each on its own line"), "utf-8")
    other = run(*served, "planted:1", "--catalogue", str(catalogue), check=False)
    assert other.returncode == 2, other.stderr
    assert "catalogue_digest" in other.stderr
    catalogue.write_text(shipped.replace("expert on {items}", "expert on {things}"), "utf-8")
    other = run(*served, "planted:1", "--catalogue", str(catalogue), check=False)
    assert other.returncode == 2
    assert "unknown placeholder {things}; allowed: field" in other.stderr
    run(*served, "planted:1")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(tmp_path: Path, small_disk: Path) -> None:
    train = ["train", "--policy", "enumeration", *PLANTED, "--users", "40", "--calls", "600"]
    full = run_apart(*train, "--out", str(small_disk / "run"))  # nothing may keep the disk busy
    assert full.returncode == 2
    assert "disk is full; free some space and go on with --resume" in full.stderr
    assert [line.startswith("Error: ") for line in full.stderr.splitlines()] == [False, True], full.stderr
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    resumed = json.loads(run_apart(*train, "--out", str(small_disk / "run"), "--resume", "--json").stdout)
    whole = json.loads(run(*train, "--out", str(tmp_path / "whole"), "--json").stdout)
    assert resumed["llm_requests"] == whole["llm_requests"]
    assert fingerprint(small_disk / "run") == fingerprint(tmp_path / "whole")


def test_a_folder_that_holds_a_run_is_not_overwritten(whole: tuple[Path, dict[str, Any]]) -> None:
    out, _ = whole
    before = fingerprint(out)
    again = run(*TRAIN, "--out", str(out), check=False)
    assert again.returncode == 2
    assert "already holds a run; pass --resume" in again.stderr
    other = run(*TRAIN, "--seed", "1", "--out", str(out), "--resume", check=False)
    assert other.returncode == 2
    assert "seed was 0 and is 1" in other.stderr
    assert fingerprint(out) == before
