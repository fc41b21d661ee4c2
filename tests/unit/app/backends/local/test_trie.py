"""Next-token probabilities at the inner nodes become probabilities of labels."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch

from promptailor.app.backends.local.trie import LabelTrie

ONE, TWO, ZERO, BLANK = 1, 2, 0, 9


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_labels_of_one_token_need_no_row_but_the_prompt() -> None:
    trie = LabelTrie([(ONE,), (TWO,)])
    assert trie.rows == (((), ((0, (ONE, TWO)),)),)
    assert trie.log_probs(log(0.3, 0.1)).exp().tolist() == pytest.approx([0.75, 0.25])


def test_a_label_ends_where_no_other_goes_on() -> None:
    trie = LabelTrie([(ONE,), (TWO,), (ONE, ZERO)])
    assert trie.rows == (((ONE,), ((0, (ONE, TWO)), (1, (ZERO,)))),)
    share = trie.log_probs(log(0.4, 0.2, 0.25)).exp().tolist()
    assert share == pytest.approx([0.4 * 0.75 / 0.6, 0.2 / 0.6, 0.4 * 0.25 / 0.6])


def test_a_chain_is_one_row_and_every_node_is_read_once() -> None:
    trie = LabelTrie([(BLANK, ONE), (BLANK, ONE, ZERO), (BLANK, TWO), (BLANK, TWO, ZERO)])
    assert [tail for tail, _ in trie.rows] == [(BLANK, ONE), (BLANK, TWO)]
    assert [depth for _, places in trie.rows for depth, _ in places] == [0, 1, 2, 2]
    share = trie.log_probs(log(0.5, 0.6, 0.2, 0.1, 0.3)).exp().tolist()
    expected = [0.6 * 0.9, 0.6 * 0.1, 0.2 * 0.7, 0.2 * 0.3]
    assert share == pytest.approx([value / 0.8 for value in expected])


def test_certainty_and_impossibility_stay_finite() -> None:
    trie = LabelTrie([(ONE,), (TWO,), (ONE, ZERO)])
    log_probs = trie.log_probs(log(1.0, 0.0, 1.0)).tolist()
    assert all(map(math.isfinite, log_probs))
    assert max(log_probs) == log_probs[2] == pytest.approx(0.0, abs=1e-6)
