from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue

from promptailor.evals.baselines.base import Method, RankedUser
from promptailor.evals.baselines.fitting import (
    MANIFEST,
    TENSORS,
    Fit,
    FitLog,
    Tensors,
    fit_epochs,
    kept_fit,
    mean_ndcg,
    validation_cases,
)
from promptailor.evals.planted import PlantedWorld
from promptailor.evals.protocol import split_users
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.errors import CheckpointError

KEY: dict[str, JsonValue] = {"dataset": "d", "seed": 0}


class Knows:
    """Puts the target first for the first few users, and last for the others."""

    name, llm, train_users = "knows", False, ()

    def __init__(self, n_users: int) -> None:
        self.n_users = n_users

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        return [self._answer(request, place < self.n_users) for place, request in enumerate(requests)]

    @staticmethod
    def _answer(request: RankRequest, known: bool) -> RankedUser:
        ids = sorted((item.item_id for item in request.candidates), key=lambda i: i.endswith("target") != known)
        return RankedUser(user_id=request.user_id, ranking=tuple(ids))


class Script:
    """A training whose n-th epoch gives a model that knows a scripted number of users."""

    def __init__(self, knows: Sequence[int]) -> None:
        self.knows, self.done, self.steps = knows, 0, list[int]()

    def epochs(self) -> Iterator[None]:
        while True:
            self.done += 1
            yield

    def fit(self, cases: Sequence[EvalCase], *, patience: int) -> Fit:
        return fit_epochs(
            self.epochs(),
            lambda: {"epoch": np.array([self.done], np.float32)},
            self.method,
            cases,
            epochs=len(self.knows),
            patience=patience,
            advance=self.steps.append,
        )

    def method(self, tensors: Tensors) -> Method:
        return Knows(self.knows[int(tensors["epoch"][0]) - 1])


@pytest.fixture
def ten_cases(make_cases: Callable[..., list[EvalCase]]) -> list[EvalCase]:
    return make_cases(10)


def test_the_best_epoch_is_kept_and_patience_ends_it(ten_cases: list[EvalCase]) -> None:
    script = Script([1, 4, 3, 8, 7, 8, 10, 10])
    fit = script.fit(ten_cases, patience=2)
    assert script.done == 6  # epoch 6 only ties with epoch 4, so 5 and 6 were in vain
    assert fit.log.best_epoch == 4
    assert fit.tensors["epoch"].tolist() == [4.0]
    assert fit.log.validation == tuple(mean_ndcg(Knows(n), ten_cases) for n in (1, 4, 3, 8, 7, 8))
    assert script.steps == [1] * 6


def test_no_more_epochs_than_asked_for(ten_cases: list[EvalCase]) -> None:
    script = Script([1, 2, 3])
    assert script.fit(ten_cases, patience=5).log.best_epoch == 3
    assert script.done == 3


def test_without_validation_users_the_last_epoch_counts() -> None:
    script = Script([3, 2, 1])
    fit = script.fit([], patience=1)
    assert (fit.log.best_epoch, fit.log.validation) == (3, ())


def test_validation_asks_validation_users_alone_for_their_second_to_last_item(world: PlantedWorld) -> None:
    dataset = world.dataset(100, 0)
    cases = validation_cases(dataset)
    assert {case.user_id for case in cases} == set(split_users(dataset).validation)
    for case in cases:
        *history, second_last, last = dataset.sequences[case.user_id]
        assert case.relevant_item_id == second_last
        assert [item.item_id for item in case.request.history] == history
        assert last not in [item.item_id for item in case.request.candidates]


class Counted:
    """A fit that counts how often it is made."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> Fit:
        self.n += 1
        tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.1], np.float32)}
        return Fit(tensors=tensors, log=FitLog(best_epoch=2, validation=(0.5, 0.7), seconds=1.5))


def same(first: Fit, second: Fit) -> bool:
    return first.log == second.log and all(
        np.array_equal(first.tensors[name], second.tensors[name]) for name in {**first.tensors, **second.tensors}
    )


def test_a_fit_is_made_once_per_key(tmp_path: Path) -> None:
    fit = Counted()
    first = kept_fit(tmp_path, "m", KEY, fit)
    again = kept_fit(tmp_path, "m", dict(reversed(KEY.items())), fit)
    assert fit.n == 1
    assert same(first, again)
    for name, key in (("m", {**KEY, "seed": 1}), ("n", KEY)):
        kept_fit(tmp_path, name, key, fit)
    assert fit.n == 3
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("file", [MANIFEST, TENSORS])
@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(b"{}"), Path.unlink],
    ids=["cut", "other", "gone"],
)
def test_a_damaged_model_is_fitted_again(
    tmp_path: Path, file: str, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    fit = Counted()
    first = kept_fit(tmp_path, "m", KEY, fit)
    (folder,) = tmp_path.iterdir()
    damage(folder / file)
    with caplog.at_level(logging.WARNING):
        assert same(first, kept_fit(tmp_path, "m", KEY, fit))
    assert fit.n == 2
    assert ("damaged" in caplog.text) == ((file, damage) != (MANIFEST, Path.unlink))  # without one, nothing was kept
    assert same(first, kept_fit(tmp_path, "m", KEY, fit))
    assert fit.n == 2


def test_one_changed_number_is_noticed(tmp_path: Path) -> None:
    fit = Counted()
    kept_fit(tmp_path, "m", KEY, fit)
    (tensors,) = tmp_path.glob(f"*/{TENSORS}")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    kept_fit(tmp_path, "m", KEY, fit)
    assert fit.n == 2


def test_a_manifest_says_what_was_fitted(tmp_path: Path) -> None:
    kept_fit(tmp_path, "m", KEY, Counted())
    (path,) = tmp_path.glob(f"*/{MANIFEST}")
    manifest = json.loads(path.read_text("utf-8"))
    assert (manifest["name"], manifest["key"], manifest["log"]["best_epoch"]) == ("m", KEY, 2)


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_fitted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    fit = Counted()
    with pytest.raises(CheckpointError, match="PROMPTAILOR_HOME") as error:
        kept_fit(tmp_path / "file", "m", KEY, fit)
    assert "\n" not in str(error.value)
    assert fit.n == 0
