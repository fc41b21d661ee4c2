"""LightGCN agrees with an independent implementation, and item embeddings keep what they promise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.lightgcn import LightGCN, SymmetricProduct, train_item_embeddings
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import CheckpointError, DataError

EDGES = np.array([[0, 0, 1, 1, 2, 2, 2, 3], [0, 1, 1, 2, 0, 3, 4, 4]])
"""Users and items of a small graph: 4 users, 5 items."""
RAW = np.random.default_rng(0).normal(2.0, 3.0, (5, 4)).astype(np.float32)
DEGREES = np.bincount(EDGES[1])
SEQUENCES = {str(user): [f"i{item}" for item in EDGES[1][EDGES[0] == user]] for user in range(4)}


def item(item_id: str, title: str | None = None) -> Item:
    return Item(item_id=item_id, title=title or f"title of {item_id}")


def catalogue(n: int) -> Mapping[str, Item]:
    return {f"i{row}": item(f"i{row}") for row in range(n)}


def small(raw: np.ndarray = RAW) -> ItemEmbeddings:
    return ItemEmbeddings.fit([f"i{row}" for row in range(5)], raw, DEGREES, SEQUENCES)


def communities(n_users: int = 30, n_items: int = 10) -> dict[str, list[str]]:
    """Two groups of users, each of which chooses among its own items only."""
    rng = np.random.default_rng(0)
    return {
        f"{group}{user}": [f"{group}{n}" for n in rng.choice(n_items, 6, replace=False)]
        for group in "ab"
        for user in range(n_users)
    }


class TableEncoder:
    """A text encoder that looks its answers up."""

    dimension = 3

    def __init__(self, table: Mapping[str, Sequence[float]]) -> None:
        self.table = table
        self.calls = 0

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls += len(texts)
        return [list(self.table[text]) for text in texts]


def test_propagation_agrees_with_pytorch_geometric() -> None:
    geometric = pytest.importorskip("torch_geometric.nn", reason="the extra `dev` is not installed")
    ours = LightGCN(EDGES, 4, 5, dimension=8, n_layers=3, generator=torch.Generator().manual_seed(0))
    oracle = geometric.LightGCN(num_nodes=9, embedding_dim=8, num_layers=3)
    users, items = torch.from_numpy(EDGES[0]), torch.from_numpy(EDGES[1]) + 4
    edge_index = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    with torch.no_grad():
        oracle.embedding.weight.copy_(ours.weight)
    theirs = oracle.get_embedding(edge_index)
    torch.testing.assert_close(torch.cat(ours()), theirs)

    target = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((torch.cat(ours()) * target).sum(), ours.weight)
    (expected,) = torch.autograd.grad((theirs * target).sum(), oracle.embedding.weight)
    torch.testing.assert_close(gradient, expected)


def test_the_symmetric_product_has_the_right_gradient() -> None:
    matrix = torch.tensor([[0.0, 2.0], [2.0, 1.0]], dtype=torch.float64).to_sparse_csr()
    point = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64, requires_grad=True)

    def product(dense: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = SymmetricProduct.apply(matrix, dense)  # type: ignore[no-untyped-call]
        return result

    assert torch.autograd.gradcheck(product, (point,))


def test_training_is_a_function_of_its_seed_and_leaves_torch_as_it_was() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first, again, other = (train_item_embeddings(communities(), epochs=2, dimension=8, seed=s) for s in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_training_lowers_the_loss_and_separates_communities() -> None:
    losses: list[float] = []
    embeddings = train_item_embeddings(
        communities(), epochs=30, dimension=8, on_epoch=lambda epoch, loss: losses.append(loss)
    )
    assert len(losses) == 30
    assert losses[-1] < 0.6 * losses[0]
    a, b = (embeddings.matrix([item(f"{group}{n}") for n in range(10)]) for group in "ab")
    assert (a @ a.T).mean() > 0
    assert (a @ b.T).mean() < 0
    new_user = embeddings.user([item("a1"), item("a2"), item("a3")])
    assert (a @ new_user).min() > (b @ new_user).max()


def test_training_needs_an_interaction() -> None:
    with pytest.raises(DataError, match="no interaction"):
        train_item_embeddings({"u": []})


def test_item_and_user_vectors_are_centred_with_unit_variance() -> None:
    embeddings = small()
    items = embeddings.matrix(list(catalogue(5).values()))
    users = np.stack([embeddings.user([item(i) for i in ids]) for ids in SEQUENCES.values()])
    for vectors in (items, users):
        np.testing.assert_allclose(vectors.mean(axis=0), 0.0, atol=1e-5)
        assert vectors.std(axis=0).mean() == pytest.approx(1.0, abs=1e-5)
    assert items.dtype == users.dtype == np.float32


def test_a_user_is_the_degree_normalised_mean_up_to_centring_and_scale() -> None:
    embeddings = small()
    means = {}
    for user, ids in SEQUENCES.items():
        rows = [int(i[1:]) for i in ids]
        weights = DEGREES[rows] ** -0.5
        means[user] = weights @ RAW[rows] / weights.sum()
    expected = np.stack(list(means.values()))
    expected -= expected.mean(axis=0)
    expected /= expected.std(axis=0).mean()
    found = np.stack([embeddings.user([item(i) for i in ids]) for ids in SEQUENCES.values()])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_repeats_count_once_and_no_history_is_the_mean_user() -> None:
    embeddings = small()
    np.testing.assert_array_equal(
        embeddings.user([item("i0"), item("i1"), item("i0")]), embeddings.user([item("i0"), item("i1")])
    )
    np.testing.assert_array_equal(embeddings.user([]), np.zeros(4))


def test_a_single_user_is_not_blown_up() -> None:
    embeddings = ItemEmbeddings.fit(["i0", "i1"], RAW[:2], DEGREES[:2], {"only": ["i0", "i1"]})
    np.testing.assert_allclose(embeddings.user([item("i0"), item("i1")]), 0.0, atol=1e-5)
    assert np.abs(embeddings.user([item("i0")])).max() < 10


def test_unknown_items_are_placed_by_their_titles() -> None:
    rng = np.random.default_rng(0)
    raw, titles = rng.normal(size=(60, 4)), {f"i{n}": f"title {n}" for n in range(60)}
    texts = raw @ rng.normal(size=(4, 4)) + 0.5
    encoder = TableEncoder({title: texts[n] for n, title in enumerate(titles.values())})
    items = {i: item(i, title) for i, title in titles.items()}
    known = [f"i{n}" for n in range(50)]
    embeddings = ItemEmbeddings.fit(known, raw[:50].astype(np.float32), np.full(50, 2), {"u": known}).fit_titles(
        items, encoder
    )
    unknown = embeddings.matrix([items[f"i{n}"] for n in range(50, 60)])
    expected = (raw[50:] - raw[:50].mean(axis=0)) / raw[:50].std(axis=0).mean()
    np.testing.assert_allclose(unknown, expected, atol=0.1)


def test_titles_that_say_nothing_give_the_mean_item() -> None:
    rng = np.random.default_rng(0)
    raw, texts = rng.normal(size=(200, 4)).astype(np.float32), rng.normal(size=(201, 30)) / 30**0.5
    ids = [f"i{n}" for n in range(200)]
    items = {f"i{n}": item(f"i{n}") for n in range(201)}
    encoder = TableEncoder({entry.title: texts[n] for n, entry in enumerate(items.values())})
    embeddings = ItemEmbeddings.fit(ids, raw, np.full(200, 2), {"u": ids}).fit_titles(items, encoder)
    assert np.abs(embeddings.matrix([items["i200"]])).max() < 0.2


def test_known_items_need_no_encoder_and_unknown_ones_without_it_are_zero() -> None:
    encoder = TableEncoder({entry.title: (1.0, row, 0.0) for row, entry in enumerate(catalogue(5).values())})
    embeddings = small().fit_titles(catalogue(5), encoder)
    after_fitting = encoder.calls
    embeddings.user(list(catalogue(5).values()))
    assert encoder.calls == after_fitting == 5
    np.testing.assert_array_equal(small().matrix([item("new")]), np.zeros((1, 4)))


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    items = {**catalogue(5), "new": item("new")}
    encoder = TableEncoder({entry.title: (1.0, row % 3, row) for row, entry in enumerate(items.values())})
    embeddings = small().fit_titles(items, encoder)
    embeddings.save(tmp_path / "folder")
    loaded = ItemEmbeddings.load(tmp_path / "folder", encoder=encoder)
    assert loaded.digest == embeddings.digest
    assert loaded.dimension == 4
    history = [items["i1"], items["new"]]
    np.testing.assert_array_equal(loaded.user(history), embeddings.user(history))
    np.testing.assert_array_equal(loaded.matrix(history), embeddings.matrix(history))
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"manifest.json", "embeddings.safetensors"}


def _drop_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _truncate(folder: Path) -> None:
    path = folder / "embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _swap_items(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "item_ids": manifest["item_ids"][::-1]}))


@pytest.mark.parametrize("damage", [_drop_manifest, _truncate, _swap_items])
def test_damage_is_told_with_the_fix(tmp_path: Path, damage: object) -> None:
    small().save(tmp_path)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match="delete the folder"):
        ItemEmbeddings.load(tmp_path)
