"""The policy acts within its masks, the same for one user alone as among others, and the same for the same seed."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch

from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy
from promptailor.policies.masks import allowed_increments, next_lengths
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import PATTERNS, HistoryPattern

if TYPE_CHECKING:
    from tests.unit.policies.conftest import HashEncoder, ToyWorld

CONFIGS = [PolicyConfig(), PolicyConfig.paper(), PolicyConfig(pooling="mean", critic="value")]


def make(toy: ToyWorld, text: HashEncoder, config: PolicyConfig | None = None, seed: int = 0) -> ReinforcedPolicy:
    return ReinforcedPolicy(config or PolicyConfig(), toy.catalogue, embeddings=toy.embeddings, encoder=text, seed=seed)


def sharpen(policy: ReinforcedPolicy) -> None:
    """Make the actors prefer something, as trained ones do."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.networks.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("config", CONFIGS)
def test_one_agent_per_pattern_answers_with_a_valid_choice(
    config: PolicyConfig, toy: ToyWorld, text_encoder: HashEncoder
) -> None:
    policy = make(toy, text_encoder, config)
    vector = policy.observe(toy.inputs("a-user-0"))
    assert tuple(policy.agents) == PATTERNS
    for pattern in policy.agents:
        choice = policy.act(pattern, vector, key=(0, "a-user-0", 0), explore=True)
        assert 0 <= choice.action < toy.catalogue.n_actions(pattern)
        assert choice.log_prob <= 0
        assert math.isfinite(choice.value)


def test_sentence_ids_name_the_action(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder, PolicyConfig(personalised=(*PATTERNS, "user_profile")))
    vector = policy.observe(toy.inputs("a-user-0"))
    ids = {p: policy.act(p, vector, key=(3,), explore=True) for p in policy.agents}
    role = ids["role_playing"]
    assert role.sentence_id == toy.catalogue.sentences("role_playing")[role.action].id
    assert ids["history_records"].sentence_id == f"+{ids['history_records'].action}"
    fields = toy.catalogue.user_profile.subsets[ids["user_profile"].action]
    assert ids["user_profile"].sentence_id == ("+".join(fields) or "none")


@pytest.mark.parametrize(
    ("length", "available", "expected"),
    [
        (1, 10, [True, True, True]),
        (3, 4, [True, True, True]),
        (4, 4, [True, False, False]),
        (1, 0, [True, False, False]),
    ],
)
def test_increments_that_change_nothing_are_masked_in_favour_of_none(
    length: int, available: int, expected: list[bool], toy: ToyWorld
) -> None:
    counters = torch.tensor([[float(length), float(available), 0.0]])
    assert allowed_increments(toy.catalogue.history_records, counters)[0].tolist() == expected


def test_lengths_after_an_increment_are_those_of_the_catalogue() -> None:
    history = HistoryPattern(initial_length=1, increments=(0, 1, 4), max_length=6, text="t")
    for length in range(8):
        for available in range(8):
            counters = torch.tensor([[float(length), float(min(available, history.max_length)), 0.0]])
            expected = [history.next_length(length, action, available) for action in range(3)]
            assert next_lengths(history, counters)[0].tolist() == expected


def test_the_history_agent_never_draws_a_masked_increment(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder)
    full = StateInputs(history=toy.history("a-user-0"), step=3, history_length=len(toy.history("a-user-0")))
    vector = policy.observe(full)
    for n in range(50):
        choice = policy.act("history_records", vector, key=(n,), explore=True)
        assert (choice.action, choice.log_prob) == (0, 0.0)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_user_alone_gets_what_the_user_gets_among_others(
    config: PolicyConfig, toy: ToyWorld, text_encoder: HashEncoder
) -> None:
    policy = make(toy, text_encoder, config)
    sharpen(policy)
    alone = toy.rollout(policy, "b-user-3", n_steps=3)
    for user in toy.user_ids:
        toy.rollout(policy, user, n_steps=3)
    assert toy.rollout(policy, "b-user-3", n_steps=3) == alone
    fresh = make(toy, text_encoder, config)
    sharpen(fresh)
    assert toy.rollout(fresh, "b-user-3", n_steps=3) == alone


def test_the_seed_fixes_the_weights(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    torch.manual_seed(5)
    first = make(toy, text_encoder, seed=1)
    torch.manual_seed(6)
    assert make(toy, text_encoder, seed=1).digest == first.digest
    assert make(toy, text_encoder, seed=2).digest != first.digest


def test_exploration_follows_the_probabilities_and_serving_the_largest(
    toy: ToyWorld, text_encoder: HashEncoder
) -> None:
    policy = make(toy, text_encoder)
    sharpen(policy)
    vector = policy.observe(toy.inputs("a-user-0"))
    drawn = [policy.act("role_playing", vector, key=(n,), explore=True) for n in range(3000)]
    counts = Counter(choice.action for choice in drawn)
    chances = {choice.action: math.exp(choice.log_prob) for choice in drawn}
    for action, chance in chances.items():
        assert counts[action] / 3000 == pytest.approx(chance, abs=0.04)
    served = {policy.act("role_playing", vector, key=(n,), explore=False).action for n in range(20)}
    assert served == {max(chances, key=lambda action: chances[action])}


def test_equal_probabilities_are_served_by_the_first(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder)
    with torch.no_grad():
        policy.networks.get_parameter("actors.role_playing.output.weight").zero_()
    vector = policy.observe(toy.inputs("a-user-0"))
    assert policy.act("role_playing", vector, key=(1,), explore=False).action == 0


def test_agents_draw_independently_under_one_key(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder)
    vector = policy.observe(toy.inputs("a-user-0"))
    pairs = {
        tuple(policy.act(p, vector, key=(n,), explore=True).action for p in ("role_playing", "history_records"))
        for n in range(60)
    }
    assert len(pairs) == 9


def test_one_pattern_can_be_personalised_alone(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder, PolicyConfig(personalised=("reasoning_guidance",)))
    assert tuple(policy.agents) == ("reasoning_guidance",)
    assert list(policy.networks.actors) == ["reasoning_guidance"]
