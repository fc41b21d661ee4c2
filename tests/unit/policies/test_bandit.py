"""The bandit learns whom to show what, says how likely it was to, and stops where the budget does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptailor.policies.bandit import UNIFORM_SHARE, FactoredBandit
from promptailor.policies.base import Trial
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import PATTERNS

if TYPE_CHECKING:
    from tests.unit.policies.conftest import ToyWorld


def fitted(toy: ToyWorld, calls: int) -> FactoredBandit:
    bandit = FactoredBandit(PromptSpace(toy.catalogue), toy.embeddings)
    bandit.fit(toy, calls=calls, seed=0)
    return bandit


def served(toy: ToyWorld, bandit: FactoredBandit) -> float:
    users = [f"{kind}-new-{n}" for kind in "ab" for n in range(20)]
    specs = [bandit.choose(toy.inputs(user), key=(), explore=False).spec for user in users]
    return sum(toy.worth(user, spec) for user, spec in zip(users, specs, strict=True)) / len(users)


def test_it_learns_both_kinds_of_users(make_toy: Callable[..., ToyWorld]) -> None:
    toy = make_toy(noise=0.15)
    bandit = fitted(toy, calls=1000)
    assert len(toy.trials) == 1000
    assert bandit.stopped == "finished"
    assert served(toy, bandit) > 0.95


def test_trials_of_a_user_show_fresh_permutations(toy: ToyWorld) -> None:
    fitted(toy, calls=100)
    by_user = Counter((trial.user_id, trial.sample_index) for trial in toy.trials)
    assert set(by_user.values()) == {1}


def test_propensities_are_how_often_it_explores(toy: ToyWorld) -> None:
    bandit = fitted(toy, calls=300)
    inputs = toy.inputs("a-user-0")
    decisions = [bandit.choose(inputs, key=("test", n), explore=True) for n in range(3000)]
    for pattern in ("role_playing", "reasoning_guidance"):
        drawn = Counter(getattr(decision.spec, pattern) for decision in decisions)
        chances = {getattr(d.spec, pattern): d.probabilities[pattern] for d in decisions}
        for option, chance in chances.items():
            assert drawn[option] / 3000 == pytest.approx(chance, abs=0.03)
            assert chance >= UNIFORM_SHARE / toy.catalogue.n_actions(pattern) * 0.999
    assert set(decisions[0].probabilities) == set(PATTERNS)


def test_serving_is_greedy_and_needs_no_key(toy: ToyWorld) -> None:
    bandit = fitted(toy, calls=200)
    first, second = (bandit.choose(toy.inputs("b-user-1"), key=(n,), explore=False) for n in range(2))
    assert first == second
    assert first.probabilities == {}


def test_no_more_history_is_asked_for_than_there_is(toy: ToyWorld) -> None:
    bandit = FactoredBandit(PromptSpace(toy.catalogue), toy.embeddings)
    for n_items in (0, 1, 4, 8):
        inputs = StateInputs(history=toy.history("a-user-0")[:n_items], step=0, history_length=1)
        lengths = {bandit.choose(inputs, key=(n,), explore=True).spec.history_length for n in range(200)}
        assert max(lengths) <= max(n_items, 1)
        assert len(lengths) == sum(length <= max(n_items, 1) for length in bandit.space.lengths)


def test_a_spent_budget_keeps_what_was_learned(make_toy: Callable[..., ToyWorld]) -> None:
    toy = make_toy(max_trials=600, noise=0.05)
    bandit = fitted(toy, calls=5000)
    assert bandit.stopped == "budget"
    assert len(toy.trials) <= 600
    assert served(toy, bandit) > 0.9


def test_fitting_twice_gives_the_same_bandit(make_toy: Callable[..., ToyWorld]) -> None:
    assert fitted(make_toy(), calls=200).digest == fitted(make_toy(), calls=200).digest


def test_it_learns_from_a_log_of_prompts_that_somebody_else_chose(make_toy: Callable[..., ToyWorld]) -> None:
    toy = make_toy(noise=0.15)
    bandit = FactoredBandit(PromptSpace(toy.catalogue), toy.embeddings)
    users = [user for _ in range(25) for user in toy.user_ids]
    specs = [bandit.space.spec(bandit.space.random("log", n)) for n in range(len(users))]
    assert [bandit.space.spec(bandit.space.choice(spec)) for spec in specs] == specs
    rewards = toy.rewards(
        [Trial(user_id=u, spec=s, sample_index=n) for n, (u, s) in enumerate(zip(users, specs, strict=True))]
    )
    before = served(toy, bandit)
    bandit.learn([toy.inputs(user) for user in users], users, specs, np.array(rewards), seed=0)
    assert served(toy, bandit) > max(before, 0.9)
