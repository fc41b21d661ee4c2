"""Ratings of MovieLens-100K, predicted from the command line; the data are found through PROMPTAILOR_DATA."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from promptailor.evals.datasets import is_present, load_spec
from tests.integration.commands import run_here

pytestmark = pytest.mark.slow


def test_the_shipped_model_and_the_baselines_rate_real_films(tmp_path: Path) -> None:
    folder = os.environ.get("PROMPTAILOR_DATA")
    if not folder or not is_present(load_spec("ml-100k"), Path(folder)):
        pytest.skip("PROMPTAILOR_DATA names no folder with ml-100k")
    methods = "global-mean,user-mean,item-mean,bias,manual"
    command = ["evaluate-ratings", "--methods", methods, "--out", str(tmp_path / "run"), "--json"]
    done = run_here(*command, environment={})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    rmse = {name: result["rmse"]["mean"] for name, result in report["methods"].items()}
    assert rmse["bias"] < min(rmse["item-mean"], rmse["user-mean"]) < rmse["global-mean"]
    assert 0.9 < rmse["bias"] < 1.05  # biases reach .94 on random splits; a user's last rating is harder
    assert rmse["manual"] < 1.3  # never taught to rate, it still copies the ratings it is shown
    assert report["methods"]["manual"]["invalid_rate"] == 0.0
    again = run_here(*command, "--resume", environment={})
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["spent"] == json.loads(done.stdout)["spent"]
    assert json.loads(again.stdout)["report"]["methods"] == report["methods"]
