from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptailor.evals.baselines import fitting
from promptailor.evals.baselines.bpr import BPR
from promptailor.evals.baselines.lightgcn import LightGCNRanker
from promptailor.evals.baselines.pairwise import PairwiseScorer
from promptailor.evals.datasets import Dataset, DatasetSpec
from promptailor.evals.protocol import split_users
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import DataError

QUICK = {"dimension": 8, "epochs": 25, "patience": 25, "learning_rate": 0.05, "batch_size": 512}


class QuickBPR(BPR):
    settings = BPR.settings.model_copy(update=QUICK)


class QuickLightGCN(LightGCNRanker):
    settings = LightGCNRanker.settings.model_copy(update=QUICK)


both = pytest.mark.parametrize("kind", [QuickBPR, QuickLightGCN], ids=lambda kind: kind.name)


def dataset_of(sequences: Mapping[str, Sequence[str]], item_ids: Sequence[str]) -> Dataset:
    return Dataset(
        spec=DatasetSpec(name="made-up", domain="neutral", time="order"),
        items={i: Item(item_id=i, title=f"Title of {i}") for i in item_ids},
        sequences={user: tuple(items) for user, items in sequences.items()},
        times={user: tuple(map(float, range(len(items)))) for user, items in sequences.items()},
    )


def communities(n_users: int = 80) -> Dataset:
    """Two groups of users, each of which chooses among its own items only, in random order."""
    rng = np.random.default_rng(0)
    groups = [[f"{group}{n}" for n in range(20)] for group in "ab"]
    sequences = {f"u{n}": [*rng.choice(groups[n % 2], size=12, replace=False)] for n in range(n_users)}
    return dataset_of(sequences, [*groups[0], *groups[1], "cold"])


def ask(dataset: Dataset, user_id: str, candidates: Sequence[str]) -> RankRequest:
    return RankRequest(
        user_id=user_id, history=(), candidates=tuple(dataset.items[i] for i in candidates), domain="neutral"
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    return communities()


@pytest.fixture(scope="module")
def fitted(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[PairwiseScorer]], PairwiseScorer]:
    models = tmp_path_factory.mktemp("models")
    return lambda kind: kind.fit(data, seed=0, models=models)


@both
def test_communities_are_told_apart(
    kind: type[PairwiseScorer], data: Dataset, fitted: Callable[..., PairwiseScorer]
) -> None:
    model, wins = fitted(kind), 0
    for n, (user, sequence) in enumerate(data.sequences.items()):
        own = sequence[-1]  # held out
        other = f"{'ab'[1 - n % 2]}{own[1:]}"
        (answer,) = model.rank([ask(data, user, ["cold", other, own])])
        assert answer.ranking[-1] == "cold"
        wins += answer.ranking[0] == own
    assert wins >= 76  # of 80


@both
def test_a_stranger_gets_every_known_item_alike(
    kind: type[PairwiseScorer], data: Dataset, fitted: Callable[..., PairwiseScorer]
) -> None:
    assert fitted(kind).scores(ask(data, "stranger", ["b1", "cold", "a1"])) == [0.0, -np.inf, 0.0]


@both
@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations([*(f"a{n}" for n in range(20)), *(f"b{n}" for n in range(20)), "cold"]),
    cut=st.integers(1, 41),
)
def test_a_score_depends_on_no_other_candidate(
    kind: type[PairwiseScorer],
    data: Dataset,
    fitted: Callable[..., PairwiseScorer],
    order: list[str],
    cut: int,
) -> None:
    model = fitted(kind)
    everything = dict(zip(data.items, model.scores(ask(data, "u3", [*data.items])), strict=True))
    some = order[:cut]
    assert model.scores(ask(data, "u3", some)) == [everything[i] for i in some]


@both
def test_held_out_items_have_no_part_in_a_fit(kind: type[PairwiseScorer], data: Dataset, tmp_path: Path) -> None:
    """The last two items of training and test users may be anything; those of validation users select the epoch."""
    split, rng = split_users(data), np.random.default_rng(1)
    changed = dict(data.sequences)
    for user in (*split.train, *split.test):
        changed[user] = (*data.sequences[user][:-2], *rng.choice(["a0", "b0", "a7", "b7"], 2, replace=False))
    other = dataset_of(changed, [*data.items])
    first, second = (kind.fit(d, seed=0, models=tmp_path / d.digest) for d in (data, other))
    assert data.digest != other.digest
    for user in data.sequences:
        np.testing.assert_array_equal(
            first.scores(ask(data, user, [*data.items])), second.scores(ask(data, user, [*data.items]))
        )


@both
def test_a_kept_model_is_the_fitted_one_and_seeds_differ(
    kind: type[PairwiseScorer], data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(data, "u5", [*data.items])
    first, other = (kind.fit(data, seed=seed, models=tmp_path).scores(asked) for seed in (0, 1))
    assert first != other
    assert kind.fit(data, seed=0, models=tmp_path / "elsewhere").scores(asked) == first
    monkeypatch.setattr(fitting, "islice", None)  # nothing can be fitted any more
    assert kind.fit(data, seed=0, models=tmp_path).scores(asked) == first


def test_the_order_in_which_users_were_read_does_not_matter(data: Dataset, tmp_path: Path) -> None:
    backwards = dataset_of(dict(reversed([*data.sequences.items()])), [*data.items])
    assert backwards.digest == data.digest
    asked = ask(data, "u5", [*data.items])
    scores = [QuickBPR.fit(d, seed=0, models=tmp_path / str(n)).scores(asked) for n, d in enumerate((data, backwards))]
    assert scores[0] == scores[1]


def test_a_data_set_without_training_interactions_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no interaction"):
        QuickBPR.fit(dataset_of({"u": ["a", "b"]}, "ab"), seed=0, models=tmp_path)
