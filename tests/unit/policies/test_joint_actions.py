"""One number per combination of actions, and back; chances of a combination split into chances of its parts."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.joint_actions import JointActions

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@given(SIZES)
def test_numbers_and_combinations_are_one_to_one(sizes: tuple[int, ...]) -> None:
    joint = JointActions(sizes)
    combinations = list(product(*map(range, sizes)))
    assert len(joint) == len(combinations)
    assert joint.join(torch.tensor(combinations)).tolist() == list(range(len(joint)))
    assert [joint.split(number) for number in range(len(joint))] == combinations


@given(SIZES, st.integers(0, 2**31))
def test_a_combinations_chance_is_the_product_of_its_parts(sizes: tuple[int, ...], seed: int) -> None:
    joint = JointActions(sizes)
    logits = torch.randn(len(joint), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    log_probs = torch.log_softmax(logits, dim=0)
    for number in range(len(joint)):
        conditionals = joint.log_conditionals(log_probs, joint.split(number))
        assert len(conditionals) == len(sizes)
        assert all(value <= 0 for value in conditionals)
        assert sum(conditionals) == pytest.approx(float(log_probs[number]), abs=1e-9)


@given(SIZES)
def test_the_chances_of_one_patterns_actions_given_the_others_sum_to_one(sizes: tuple[int, ...]) -> None:
    joint = JointActions(sizes)
    logits = torch.randn(len(joint), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    log_probs = torch.log_softmax(logits, dim=0)
    before = tuple(size - 1 for size in sizes)
    for place, size in enumerate(sizes):
        options = [(*before[:place], action, *before[place + 1 :]) for action in range(size)]
        total = sum(math.exp(joint.log_conditionals(log_probs, option)[place]) for option in options)
        assert total == pytest.approx(1.0)


def test_what_is_added_reaches_every_combination_with_the_action() -> None:
    joint = JointActions((2, 3))
    parts = [torch.tensor([[0.0, -torch.inf]]), torch.tensor([[1.0, 2.0, 3.0]])]
    assert joint.add(parts)[0].tolist() == [1.0, 2.0, 3.0, -torch.inf, -torch.inf, -torch.inf]
