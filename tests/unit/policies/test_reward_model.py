"""A reward model learns what prompts are worth to users, and episodes can be played against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy
from promptailor.policies.base import Trial
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.reward_model import RewardModel, play
from promptailor.policies.types import PaidReward, Rollout
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import PATTERNS, PromptSpec

if TYPE_CHECKING:
    from tests.unit.policies.conftest import HashEncoder, ToyWorld


def fitted(toy: ToyWorld, n: int = 1500) -> RewardModel:
    space, users = PromptSpace(toy.catalogue, lengths=(1, 2, 3, 5, 7)), toy.user_ids
    paid = []
    for number in range(n):
        user, spec = users[number % len(users)], space.spec(space.random("rewards", number))
        paid.append(PaidReward(user_id=user, spec=spec, reward=toy.reward(user, spec, number)))
    model = RewardModel(toy.catalogue, toy.embeddings, {user: toy.inputs(user) for user in users})
    model.fit(paid)
    return model


def test_it_predicts_what_prompts_are_worth_to_each_kind_of_user(make_toy: Callable[..., ToyWorld]) -> None:
    toy = make_toy(noise=0.1)
    model = fitted(toy)
    specs = [
        PromptSpec(role_playing=role, history_length=length, reasoning_guidance=reasoning, output_format=form)
        for role, length, reasoning, form in product(range(3), (2, 5), range(9), range(5))
    ]
    for user in toy.user_ids[:2]:
        predicted = np.array(model.rewards([Trial(user_id=user, spec=spec) for spec in specs]))
        true = np.array([toy.worth(user, spec) for spec in specs])
        assert np.corrcoef(predicted, true)[0, 1] > 0.95
        assert toy.worth(user, specs[int(predicted.argmax())]) > 0.95


def test_a_prediction_depends_on_its_trial_alone(toy: ToyWorld) -> None:
    model, spec = fitted(toy, 400), toy.catalogue.manual_prompt
    trials = [Trial(user_id=user, spec=spec) for user in toy.user_ids]
    together = model.rewards(trials)
    assert together == pytest.approx([model.rewards([trial])[0] for trial in reversed(trials)][::-1])
    assert model.rewards([trials[0]]) == model.rewards([Trial(user_id=trials[0].user_id, spec=spec, sample_index=7)])


def test_a_length_that_the_history_cannot_fill_counts_as_what_is_shown(toy: ToyWorld) -> None:
    model, user = fitted(toy, 400), toy.user_ids[0]
    longest = len(toy.inputs(user).history)
    shown, asked = (
        toy.catalogue.manual_prompt.model_copy(update={"history_length": length}) for length in (longest, 1000)
    )
    assert model.rewards([Trial(user_id=user, spec=shown)]) == model.rewards([Trial(user_id=user, spec=asked)])
    without = shown.model_copy(update={"role_playing": None})
    assert np.isfinite(model.rewards([Trial(user_id=user, spec=without)])).all()


def test_what_never_varied_counts_for_nothing_and_one_prompt_teaches_nothing(toy: ToyWorld) -> None:
    model = fitted(toy, 400)
    assert model.patterns == PATTERNS, "the profile was never shown"
    manual = toy.catalogue.manual_prompt
    shown = manual.model_copy(update={"user_profile": 3})
    user = toy.user_ids[0]
    assert model.rewards([Trial(user_id=user, spec=manual)]) == model.rewards([Trial(user_id=user, spec=shown)])
    with pytest.raises(InputError, match="one prompt"):
        model.fit([PaidReward(user_id=user, spec=manual, reward=0.5)] * 9)


@pytest.fixture
def policy(toy: ToyWorld, text_encoder: HashEncoder) -> ReinforcedPolicy:
    """A fresh team that reads no rankings."""
    config = PolicyConfig(pooling="none")
    return ReinforcedPolicy(config, toy.catalogue, embeddings=toy.embeddings, encoder=text_encoder)


def test_an_episode_has_the_models_rewards_and_no_ranking(toy: ToyWorld, policy: ReinforcedPolicy) -> None:
    model, users = fitted(toy, 400), toy.user_ids[:5]
    rollouts = play(policy, model, [(u, model.inputs(u)) for u in users], until_step=3, seed=1, domain="movies")
    assert [rollout.user_id for rollout in rollouts] == [*users]
    for rollout in rollouts:
        assert [step.inputs.step for step in rollout.transitions] == [0, 1, 2]
        lengths = [step.history_length for step in rollout.transitions]
        assert lengths == sorted(lengths)
        states = [*(step.inputs for step in rollout.transitions), rollout.final_inputs]
        assert [state.history_length for state in states[1:]] == lengths
        assert not any(state.ranking or state.prompt for state in states)
        assert [len(state.sentences) for state in states] == [0, 3, 3, 3]
        assert not any("{" in sentence for state in states for sentence in state.sentences)
        for step in rollout.transitions:
            spec = PromptSpec(
                role_playing=step.choices["role_playing"].action,
                history_length=step.history_length,
                reasoning_guidance=step.choices["reasoning_guidance"].action,
                output_format=step.choices["output_format"].action,
            )
            assert [step.reward] == model.rewards([Trial(user_id=rollout.user_id, spec=spec)])


def test_an_episode_can_be_gone_on_with(toy: ToyWorld, policy: ReinforcedPolicy) -> None:
    model, user = fitted(toy, 400), toy.user_ids[0]

    def steps(start: Rollout | None, until: int) -> Rollout:
        inputs = start.final_inputs if start else model.inputs(user)
        (rollout,) = play(policy, model, [(user, inputs)], until_step=until, seed=1, domain="movies")
        return rollout

    whole, first = steps(None, 4), steps(None, 2)
    rest = steps(first, 4)
    assert whole.transitions == (*first.transitions, *rest.transitions)
    assert whole.final_inputs == rest.final_inputs


def test_a_policy_that_reads_no_ranking_is_the_same_whatever_was_ranked(
    toy: ToyWorld, policy: ReinforcedPolicy, text_encoder: HashEncoder
) -> None:
    model, user = fitted(toy, 400), toy.user_ids[0]
    (rollout,) = play(policy, model, [(user, model.inputs(user))], until_step=2, seed=1, domain="movies")
    state = rollout.final_inputs
    ranked = replace(state, ranking=state.history[:4])
    assert policy.observe(state) == policy.observe(ranked)
    reader = ReinforcedPolicy(PolicyConfig(), toy.catalogue, embeddings=toy.embeddings, encoder=text_encoder)
    assert reader.observe(state) != reader.observe(ranked)
