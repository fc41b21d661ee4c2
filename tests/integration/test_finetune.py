"""Fine-tuning the model that ships on another data set; needs MovieLens-100K, found through PROMPTAILOR_DATA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.evals.dataset_spec import DatasetSpec
from promptailor.evals.datasets import Dataset, load_dataset, load_spec
from promptailor.evals.protocol import make_cases, split_users
from promptailor.evals.statistics import estimate
from promptailor.policies.reward import ndcg
from promptailor.prompts.assemble import assemble
from promptailor.prompts.errors import DataError
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("peft")

from promptailor.app.backends.embedded import finished_folder
from promptailor.app.backends.finetune import FinetuneConfig, FinetuneManifest, finetune
from promptailor.app.backends.finetune.folder import FinetuneFolder
from promptailor.app.backends.local import load
from tests.integration.commands import run_here

pytestmark = pytest.mark.slow

PROMPTAILOR = str(Path(sys.executable).with_name("promptailor"))
CATALOGUE = load_catalogue()
N_HITS, N_OTHERS, N_USERS = 20, 40, 300
CONFIG = FinetuneConfig(steps=50, micro_batch_size=16, learning_rate=2e-3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model's folder, with a token for every title of MovieLens-100K."""
    folder = os.environ.get("PROMPTAILOR_DATA")
    if not folder:
        pytest.skip("PROMPTAILOR_DATA names no folder of data sets")
    try:
        return finished_folder("ml-100k", models_dir=tmp_path_factory.mktemp("models"), data_dir=Path(folder))
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def fashions(base: Path) -> Dataset:
    """People who begin with any of sixty films, and then only ever choose among twenty random ones."""
    films = list(load_dataset(load_spec("ml-100k"), Path(os.environ["PROMPTAILOR_DATA"])).items.values())
    chosen = [films[n] for n in np.random.default_rng(5).permutation(len(films))[: N_HITS + N_OTHERS]]
    hits, others = chosen[:N_HITS], chosen[N_HITS:]
    sequences = {}
    for user in range(N_USERS):
        walk = [hits[(user * 7 + step) % N_HITS] for step in range(7 + user % 6)]
        sequences[f"u{user}"] = tuple(film.item_id for film in (others[user % N_OTHERS], *walk))
    return Dataset(
        spec=DatasetSpec(name="fashions", domain="movies", time="order"),
        items={film.item_id: film for film in chosen},
        sequences=sequences,
        times={user: tuple(map(float, range(len(sequence)))) for user, sequence in sequences.items()},
    )


@pytest.fixture(scope="module")
def adapter(base: Path, fashions: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "fashions"
    finetune(fashions, CATALOGUE, str(base), folder, config=CONFIG)
    return folder


def test_validation_users_gain(adapter: Path) -> None:
    manifest = FinetuneManifest.model_validate_json((adapter / "manifest.json").read_bytes())
    assert manifest.validation.gain.low > 0


def test_the_back_end_with_the_adapter_ranks_held_out_items_better_than_without(
    base: Path, fashions: Dataset, adapter: Path
) -> None:
    cases = make_cases(fashions, split_users(fashions).test)
    prompts = [assemble(case.request, CATALOGUE.manual_prompt, CATALOGUE, seed=0) for case in cases]

    def scores(model: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        engine = load(ModelSpec.parse(model), Settings()).engine
        read = engine.rank_batch([p.messages for p in prompts], [p.labels for p in prompts])
        rankings = [[p.shown[int(n) - 1].item_id for n in s.ranking] for p, s in zip(prompts, read, strict=True)]
        return np.array(
            [ndcg(ranking, {case.relevant_item_id}, 10) for ranking, case in zip(rankings, cases, strict=True)]
        )

    without, with_it = scores(f"transformers:{base}"), scores(f"transformers:{base}?adapter={adapter}")
    assert estimate(with_it - without, key=("test",)).low > 0


def test_a_killed_command_goes_on_with_resume(base: Path, tmp_path: Path) -> None:
    rows = [f"u{user},i{(user + step) % 40},{step}" for user in range(30) for step in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    (tmp_path / "films.csv").write_text("\n".join(["item_id,title", *(f"i{n},Film {n}" for n in range(40))]))
    (tmp_path / "films.yaml").write_text(
        "name: films\ndomain: movies\ntime: order\nk_core: 1\n"
        "layouts: [{name: csv, interactions: {file: log.csv, format: csv}, items: {file: films.csv, format: csv}}]\n"
    )
    out = tmp_path / "run"
    command = [PROMPTAILOR, "lm", "finetune", "--base", str(base), "--dataset", str(tmp_path / "films.yaml")]
    command += ["--out", str(out), "--steps", "80", "--batch-size", "1", "--json"]
    environment = os.environ | {"PROMPTAILOR_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        while running.poll() is None and not (out / "checkpoint.safetensors").exists():
            time.sleep(0.02)
        running.kill()
    checkpoint = FinetuneFolder(out).checkpoint()
    assert checkpoint is not None
    assert not (out / "manifest.json").exists()

    refused = run_here(*command[1:], environment=environment)
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("already holds a run; pass --resume to go on, or name another folder")
    done = run_here(*command[1:], "--resume", environment=environment)
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)["manifest"]["losses"]
    assert len(losses) == 80
    assert tuple(losses[: len(checkpoint.losses)]) == checkpoint.losses
