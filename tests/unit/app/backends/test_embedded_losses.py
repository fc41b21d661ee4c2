"""The list-wise loss."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("transformers")

import torch

from promptailor.app.backends.embedded.losses import pad, plackett_luce


def loss_of(scores: list[list[float]], present: list[list[bool]], n_ordered: list[int]) -> float:
    return float(plackett_luce(torch.tensor(scores), torch.tensor(present), torch.tensor(n_ordered)))


def test_one_place_is_cross_entropy() -> None:
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(1) + math.exp(0)))
    assert math.isclose(loss_of([[2.0, 1.0, 0.0]], [[True] * 3], [1]), expected, rel_tol=1e-5)


def test_places_are_drawn_without_replacement_and_weighted_by_the_discount() -> None:
    first = math.log(math.exp(2) + math.exp(1) + 1) - 2
    second = math.log(math.exp(1) + 1) - 1
    discounts = [1.0, 1 / math.log2(3)]
    expected = (discounts[0] * first + discounts[1] * second) / sum(discounts)
    assert math.isclose(loss_of([[2.0, 1.0, 0.0]], [[True] * 3], [2]), expected, rel_tol=1e-5)


def test_padding_changes_nothing() -> None:
    padded = loss_of([[2.0, 1.0, 0.0, 9.0]], [[True, True, True, False]], [3])
    assert math.isclose(padded, loss_of([[2.0, 1.0, 0.0]], [[True] * 3], [3]), rel_tol=1e-5)


def test_the_right_order_costs_less() -> None:
    present = [[True] * 3]
    assert loss_of([[2.0, 1.0, 0.0]], present, [3]) < loss_of([[0.0, 1.0, 2.0]], present, [3])


def test_pad_fills_on_the_right() -> None:
    assert pad([[1], [2, 3]], 0).tolist() == [[1, 0], [2, 3]]
