"""The first-order estimate: exact where the loss is linear, and spans found whatever the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.first_order import predicted_fall, span_beside

TOKENS = st.lists(st.integers(0, 3), max_size=12)


@pytest.mark.parametrize("n_new", [3, 6])
def test_it_is_exact_for_a_linear_loss_of_stretched_sentences(n_new: int) -> None:
    rng = np.random.default_rng(1)
    gradients, present, new = rng.normal(size=(4, 6, 5)), rng.normal(size=(6, 5)), rng.normal(size=(n_new, 5))
    stretched = np.repeat(new, 6 // n_new, axis=0)
    falls = [np.sum(g * present) - np.sum(g * stretched) for g in gradients]
    assert predicted_fall(gradients, present, new) == pytest.approx(falls)


def test_every_place_gets_a_token_of_a_longer_sentence() -> None:
    gradients, present = np.ones((1, 2, 1)), np.zeros((2, 1))
    assert predicted_fall(gradients, present, np.array([[1.0], [2.0], [3.0], [4.0]])) == pytest.approx([-(2 + 4)])


@given(before=TOKENS, part=TOKENS, after=TOKENS)
def test_what_is_left_out_is_found(before: list[int], part: list[int], after: list[int]) -> None:
    whole, without = [*before, *part, *after], [*before, *after]
    start, stop = span_beside(whole, without)
    assert stop - start == len(part)
    assert whole[:start] + whole[stop:] == without
