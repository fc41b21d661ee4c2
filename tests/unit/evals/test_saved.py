from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue

from promptailor.evals.baselines.saved import MANIFEST, TENSORS, Tensors, load_or_fit

SETTINGS: dict[str, JsonValue] = {"data": "abc", "seed": 0, "dimension": 4}


class Fits:
    """Counts how often it fits; every fit is different, as of a model that is not deterministic."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> Tensors:
        self.n += 1
        return {
            "items": np.random.default_rng(self.n).normal(size=(3, 4)).astype(np.float32).T,
            "n": np.array([self.n]),
        }


def test_a_fitted_model_is_loaded_to_the_bit(tmp_path: Path) -> None:
    fit = Fits()
    first = load_or_fit(tmp_path / "models", "toy", SETTINGS, fit)
    again = load_or_fit(tmp_path / "models", "toy", SETTINGS, fit)
    assert fit.n == 1
    assert first["items"].tobytes() == again["items"].tobytes()
    assert again["items"].shape == (4, 3)


@pytest.mark.parametrize("changed", [{"data": "abd"}, {"seed": 1}, {"dimension": 8}])
def test_other_settings_are_another_model(tmp_path: Path, changed: dict[str, JsonValue]) -> None:
    fit = Fits()
    for settings in (SETTINGS, SETTINGS | changed, SETTINGS):
        load_or_fit(tmp_path, "toy", settings, fit)
    load_or_fit(tmp_path, "other", SETTINGS, fit)
    assert fit.n == 3


def truncate(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-8])


def flip(folder: Path) -> None:
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(data)


def remove_tensors(folder: Path) -> None:
    (folder / TENSORS).unlink()


def tear_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:30])


def other_schema(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 99}))


@pytest.mark.parametrize("damage", [truncate, flip, remove_tensors, tear_manifest, other_schema])
def test_a_damaged_model_is_fitted_again_and_then_kept(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    fit = Fits()
    load_or_fit(tmp_path, "toy", SETTINGS, fit)
    (folder,) = tmp_path.iterdir()
    damage(folder)
    again = load_or_fit(tmp_path, "toy", SETTINGS, fit)
    assert fit.n == 2
    assert "damaged" in caplog.text
    assert load_or_fit(tmp_path, "toy", SETTINGS, fit)["n"] == again["n"] == 2


def test_a_kill_before_the_manifest_leaves_no_model(tmp_path: Path) -> None:
    fit = Fits()
    load_or_fit(tmp_path, "toy", SETTINGS, fit)
    (folder,) = tmp_path.iterdir()
    (folder / MANIFEST).unlink()
    load_or_fit(tmp_path, "toy", SETTINGS, fit)
    assert fit.n == 2
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, TENSORS]
