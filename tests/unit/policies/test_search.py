"""Enumeration and random search find good single prompts within their calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from promptailor.policies.enumeration import enumerate_prompts
from promptailor.policies.manual import manual_policy
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.random_search import USERS_PER_PROMPT, random_search
from promptailor.prompts.patterns import Catalogue, PromptSpec

if TYPE_CHECKING:
    from tests.unit.policies.conftest import ToyWorld

BEST = PromptSpec(role_playing=2, history_length=5, reasoning_guidance=4, output_format=3)


@pytest.fixture
def one_best(make_toy: Callable[..., ToyWorld], monkeypatch: pytest.MonkeyPatch) -> ToyWorld:
    """A world where one prompt is the best for everybody."""
    toy = make_toy(noise=0.1)

    def worth(self: ToyWorld, user_id: str, spec: PromptSpec) -> float:
        sentences = [
            spec.role_playing == BEST.role_playing,
            spec.reasoning_guidance == BEST.reasoning_guidance,
            spec.output_format == BEST.output_format,
        ]
        return 0.4 + 0.1 * sum(sentences) + 0.1 * max(0.0, 1 - abs(spec.history_length - 5) / 4)

    monkeypatch.setattr(type(toy), "worth", worth)
    return toy


def test_enumeration_finds_the_best_prompt_of_the_joint_space(one_best: ToyWorld) -> None:
    found = enumerate_prompts(one_best, PromptSpace(one_best.catalogue), calls=1500, seed=0)
    assert one_best.worth("a-user-0", found.spec) > 0.77
    assert one_best.worth("a-user-0", BEST) == pytest.approx(0.8)
    assert len(one_best.trials) <= 1500
    assert found.stopped == "finished"


def test_finalists_are_compared_on_the_same_users(one_best: ToyWorld) -> None:
    enumerate_prompts(one_best, PromptSpace(one_best.catalogue), calls=800, seed=0)
    turns = defaultdict(set)
    for trial in one_best.trials[400:]:
        turns[trial.spec].add((trial.user_id, trial.sample_index))
    sizes = sorted({len(seen) for seen in turns.values()})
    assert len(sizes) > 2
    for size in sizes:
        assert len({frozenset(seen) for seen in turns.values() if len(seen) == size}) == 1


def test_random_search_keeps_the_best_mean_on_common_users(one_best: ToyWorld) -> None:
    found = random_search(one_best, PromptSpace(one_best.catalogue), calls=1000, seed=0)
    rewards: dict[PromptSpec, dict[str, float]] = defaultdict(dict)
    for trial in one_best.trials:
        rewards[trial.spec][trial.user_id] = one_best.reward(trial.user_id, trial.spec, trial.sample_index)
    assert found.spec == max(rewards, key=lambda spec: sum(rewards[spec].values()))
    assert {tuple(by_user) for by_user in rewards.values()} == {tuple(one_best.user_ids[:USERS_PER_PROMPT])}
    assert len(one_best.trials) == 1000


@pytest.mark.parametrize("search", [enumerate_prompts, random_search])
def test_a_spent_budget_gives_the_best_so_far(search: Callable[..., object], make_toy: Callable[..., ToyWorld]) -> None:
    toy = make_toy(max_trials=450)
    found = search(toy, PromptSpace(toy.catalogue), calls=2000, seed=0)
    assert found.stopped == "budget"  # type: ignore[attr-defined]
    assert found.spec in {trial.spec for trial in toy.trials} or search is enumerate_prompts  # type: ignore[attr-defined]
    assert len(toy.trials) <= 450


@pytest.mark.parametrize("search", [enumerate_prompts, random_search])
def test_without_a_single_call_the_manual_prompt_stands(
    search: Callable[..., object], make_toy: Callable[..., ToyWorld]
) -> None:
    toy = make_toy(max_trials=0)
    found = search(toy, PromptSpace(toy.catalogue), calls=500, seed=0)
    assert found.spec == toy.catalogue.manual_prompt  # type: ignore[attr-defined]


def test_a_single_prompt_is_the_same_for_everybody(toy: ToyWorld) -> None:
    manual = manual_policy(toy.catalogue)
    specs = {manual.choose(toy.inputs(user), key=(user,), explore=True).spec for user in toy.user_ids}
    assert specs == {toy.catalogue.manual_prompt}


def test_the_space_is_the_product_of_the_options(catalogue: Catalogue) -> None:
    space = PromptSpace(catalogue, lengths=(1, 4))
    specs = {space.spec(choice) for choice in space}
    assert len(specs) == 3 * 2 * 9 * 5
    assert {space.spec(space.random("t", n)) for n in range(2000)} <= specs
    assert {space.random("t", n)[1] for n in range(50)} == {0, 1}
