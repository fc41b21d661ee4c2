"""One training command, four kinds of model: only the model string changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

from tests.integration.commands import run_here
from tests.integration.servers import transformers_server

pytestmark = pytest.mark.slow
DATA = os.environ.get("PROMPTAILOR_DATA", "")
FILMS = ["--dataset", "ml-100k", "--users", "12", "--calls", "130"]
WORLD = ["--dataset", "planted", "--users", "20", "--calls", "260"]


def promptailor(*arguments: str, home: Path) -> str:
    done = run_here(*arguments, environment={"PROMPTAILOR_HOME": str(home), "PROMPTAILOR_DATA": DATA})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def train(folder: Path, home: Path, model: str, *arguments: str) -> tuple[list[dict[str, float]], dict[str, bytes]]:
    """Return the learning curve and the learned weights."""
    promptailor("train", "--policy", "rpp", *arguments, "--model", model, "--out", str(folder), home=home)
    curve = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    weights = {path.name: path.read_bytes() for path in (folder / "policy").rglob("*.safetensors")}
    assert curve
    assert weights
    return curve, weights


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def weights_folder(home: Path) -> str:
    if not (Path(DATA) / "ml-100k").is_dir():
        pytest.skip("PROMPTAILOR_DATA holds no ml-100k")
    return promptailor("lm", "path", "ml-100k", home=home)


@pytest.fixture(scope="module")
def server(weights_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with transformers_server(Path(weights_folder), tmp_path_factory.mktemp("serve")) as url:
        yield url


@pytest.mark.parametrize("readout", ["first_token", "structured"])
def test_embedded_and_transformers_learn_the_same(
    tmp_path: Path, home: Path, weights_folder: str, readout: str
) -> None:
    embedded = train(tmp_path / "embedded", home, f"embedded:ml-100k?readout={readout}", *FILMS)
    assert train(tmp_path / "local", home, f"transformers:{weights_folder}?readout={readout}", *FILMS) == embedded


def test_a_server_with_the_same_weights_teaches_the_same(
    tmp_path: Path, home: Path, weights_folder: str, server: str
) -> None:
    written = train(tmp_path / "embedded", home, "embedded:ml-100k?readout=text", *FILMS)
    assert train(tmp_path / "local", home, f"transformers:{weights_folder}?readout=text", *FILMS) == written
    # `transformers serve` computes one prompt at a time and in its own batches: greedy answers may differ by rounding.
    curve, _ = train(tmp_path / "served", home, f"openai:{weights_folder}?base_url={server}", *FILMS)
    for ours, theirs in zip(written[0], curve, strict=True):
        assert ours["mean_reward"] == pytest.approx(theirs["mean_reward"], abs=0.05)


def test_a_served_planted_world_teaches_what_it_does_in_process(
    tmp_path: Path, home: Path, planted_server: str
) -> None:
    inside = train(tmp_path / "inside", home, "planted:1", *WORLD)
    assert train(tmp_path / "served", home, f"openai:planted:1?base_url={planted_server}", *WORLD) == inside
