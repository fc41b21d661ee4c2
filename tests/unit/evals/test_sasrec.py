from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from promptailor.evals.baselines import fitting
from promptailor.evals.baselines.fitting import mean_ndcg
from promptailor.evals.baselines.popularity import Popularity
from promptailor.evals.baselines.sasrec import (
    NO_TARGET,
    SASRec,
    SASRecNetwork,
    SASRecSettings,
    _batches,
    _loss,
    _windows,
)
from promptailor.evals.datasets import Dataset, DatasetSpec
from promptailor.evals.protocol import make_cases, split_users
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import DataError

N_ITEMS = 30
SMALL = SASRecSettings(dimension=16, n_blocks=1, n_heads=2, length=8, dropout=0.1, learning_rate=0.01, epochs=10)


class Quick(SASRec):
    settings = SMALL


class Sampled(SASRec):
    settings = SMALL.model_copy(update={"n_negatives": 12})


def dataset_of(sequences: Mapping[str, Sequence[int]]) -> Dataset:
    return Dataset(
        spec=DatasetSpec(name="made-up", domain="neutral", time="order"),
        items={str(n): Item(item_id=str(n), title=f"Title {n}") for n in range(N_ITEMS)},
        sequences={user: tuple(map(str, items)) for user, items in sequences.items()},
        times={user: tuple(map(float, range(len(items)))) for user, items in sequences.items()},
    )


def walks(n_users: int = 160) -> Dataset:
    """Users who walk round a ring of items from anywhere: the last item says what is next, popularity says nothing."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(N_ITEMS, size=n_users), rng.integers(5, 18, size=n_users)
    return dataset_of(
        {
            f"u{n}": [(start + step) % N_ITEMS for step in range(length)]
            for n, (start, length) in enumerate(zip(starts, lengths, strict=True))
        }
    )


def ask(
    history: Sequence[int], candidates: Sequence[str] = tuple(map(str, range(N_ITEMS))), user: str = "new"
) -> RankRequest:
    def items(ids: Sequence[object]) -> tuple[Item, ...]:
        return tuple(Item(item_id=str(i), title=f"Title {i}") for i in ids)

    return RankRequest(user_id=user, history=items(history), candidates=items(candidates), domain="neutral")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return walks()


@pytest.fixture(scope="module")
def model(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SASRec:
    return Quick.fit(data, seed=0, models=tmp_path_factory.mktemp("models"))


@pytest.fixture
def network() -> SASRecNetwork:
    torch.manual_seed(0)
    return SASRecNetwork(N_ITEMS, SMALL).eval()


def test_an_order_is_learned_that_popularity_cannot_see(data: Dataset, model: SASRec) -> None:
    cases = make_cases(data, split_users(data).test, seed=1)
    assert mean_ndcg(model, cases) > 0.95
    assert mean_ndcg(Popularity(data.training_sequences()), cases) < 0.65


def test_a_sample_of_the_catalogue_is_enough(data: Dataset, tmp_path: Path) -> None:
    cases = make_cases(data, split_users(data).test, seed=1)
    assert mean_ndcg(Sampled.fit(data, seed=0, models=tmp_path), cases) > 0.95


def test_only_the_history_counts_and_of_it_the_last_known_items(model: SASRec) -> None:
    asked = ask([3, 4, 5, 6, 7, 8, 9, 10])
    expected = model.scores(asked)
    assert model.scores(ask([3, 4, 5, 6, 7, 8, 9, 10], user="u1")) == expected
    assert model.scores(ask([20, 25, 3, 4, 5, 6, 7, 8, 9, 10])) == expected  # beyond the window
    assert model.scores(ask([3, 4, 777, 5, 6, 7, 8, 9, 10, 778])) == expected  # unknown ones are passed over
    assert model.scores(ask([10, 9, 8, 7, 6, 5, 4, 3])) != expected


def test_unknown_items_come_last_and_without_a_history_the_others_are_alike(model: SASRec) -> None:
    assert model.scores(ask([3, 4], ["5", "cold", "9"]))[1] == -np.inf
    for empty in ([], [777]):
        assert model.scores(ask(empty, ["5", "cold", "9"])) == [0.0, -np.inf, 0.0]


@settings(max_examples=25, deadline=None)
@given(order=st.permutations([*map(str, range(N_ITEMS)), "cold"]), cut=st.integers(1, N_ITEMS + 1))
def test_a_score_depends_on_no_other_candidate(model: SASRec, order: list[str], cut: int) -> None:
    everything = model.scores(ask([3, 4, 5]))
    expected = [everything[int(i)] if i != "cold" else -np.inf for i in order[:cut]]
    assert model.scores(ask([3, 4, 5], order[:cut])) == expected


def test_held_out_items_have_no_part_in_a_fit(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last two items of training and test users may be anything; those of validation users select the epoch."""
    monkeypatch.setattr(Quick, "settings", SMALL.model_copy(update={"epochs": 3}))
    split, rng = split_users(data), np.random.default_rng(1)
    changed = {user: [*map(int, items)] for user, items in data.sequences.items()}
    for user in (*split.train, *split.test):
        changed[user][-2:] = rng.choice(N_ITEMS, 2, replace=False).tolist()
    other = dataset_of(changed)
    assert other.digest != data.digest
    first, second = (Quick.fit(d, seed=0, models=tmp_path) for d in (data, other))
    assert len([*tmp_path.iterdir()]) == 2
    for user in split.test:
        asked = ask([*map(int, data.sequences[user][:-2])])
        assert first.scores(asked) == second.scores(asked)


def test_a_kept_model_is_the_fitted_one_and_seeds_differ(
    data: Dataset, model: SASRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quick, "settings", SMALL.model_copy(update={"epochs": 2}))
    asked = ask([3, 4, 5])
    first, other = (Quick.fit(data, seed=seed, models=tmp_path).scores(asked) for seed in (0, 1))
    assert first != other
    monkeypatch.setattr(fitting, "islice", None)  # nothing can be fitted any more
    assert Quick.fit(data, seed=0, models=tmp_path).scores(asked) == first


def test_a_fit_leaves_torch_as_it_was(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quick, "settings", SMALL.model_copy(update={"epochs": 1}))
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    Quick.fit(data, seed=0, models=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_single_interactions_teach_no_order(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no user has two training interactions"):
        Quick.fit(dataset_of({"u": [1, 2, 3]}), seed=0, models=tmp_path)


def test_no_state_knows_what_comes_after_it(network: SASRecNetwork) -> None:
    rows = torch.arange(8)[None]
    changed = rows.clone()
    changed[0, 5:] = torch.tensor([20, 21, 22])
    before, after = network(rows), network(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_padding_does_not_change_a_state(network: SASRecNetwork) -> None:
    short = network(torch.tensor([[3, 4, 5]]))
    padded = network(torch.tensor([[3, 4, 5, 0, 0, 0], [9, 8, 7, 6, 5, 4]]))
    torch.testing.assert_close(padded[:1, :3], short)


@given(n=st.integers(2, 60), length=st.integers(1, 12), seed=st.integers(0, 99))
def test_windows_make_every_item_but_the_first_a_target_once(n: int, length: int, seed: int) -> None:
    windows = _windows(np.arange(n), length, np.random.default_rng(seed))
    assert [int(item) for window in windows for item in window[1:]] == [*range(1, n)]
    for window in windows:
        assert 2 <= len(window) <= length + 1
        assert np.diff(window).tolist() == [1] * (len(window) - 1)


def test_batches_hold_every_window_once_in_an_order_that_changes() -> None:
    rng = np.random.default_rng(0)
    sequences = [
        np.arange(start, start + length)
        for start, length in zip(rng.integers(20, size=2_000), rng.integers(2, 10, size=2_000), strict=True)
    ]
    expected = sorted((int(a), int(a) + 1) for s in sequences for a in s[:-1])
    rounds = []
    for _ in range(2):
        batches = [*_batches(sequences, SMALL, rng)]
        assert len(batches) > 1
        assert all(inputs.shape == targets.shape for inputs, targets in batches)
        pairs = [
            (int(i), int(t))
            for inputs, targets in batches
            for i, t in zip(inputs.flatten(), targets.flatten(), strict=True)
        ]
        rounds.append([pair for pair in pairs if pair[1] != NO_TARGET])
        assert sorted(rounds[-1]) == expected
        assert len(pairs) < 1.2 * len(expected)  # little is padded
    assert rounds[0] != rounds[1]


def test_the_loss_is_the_cross_entropy_and_a_sample_estimates_its_sum(network: SASRecNetwork) -> None:
    with torch.no_grad():
        network.items.weight.mul_(30.0)  # far from uniform
        inputs, targets = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[2, 3, 4], [5, 6, NO_TARGET]])
        logits = network(inputs).reshape(6, -1)[:5] @ network.items.weight.T
        exact = F.cross_entropy(logits, torch.tensor([2, 3, 4, 5, 6]))
        rng = np.random.default_rng(0)
        assert _loss(network, inputs, targets, N_ITEMS, rng).item() == pytest.approx(exact.item(), rel=1e-5)
        one = inputs[:1, :1], targets[:1, :1]
        whole = _loss(network, *one, N_ITEMS, rng).exp().item()
        sampled = [_loss(network, *one, 20, rng).exp().item() for _ in range(400)]
    assert abs(np.mean(sampled) - whole) < 4 * np.std(sampled) / 20
    assert np.std(sampled) / 20 < 0.1 * whole
