"""The policy acts within its masks, the same for one user alone as among others, and the same for the same seed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch

from promptailor.policies.actor_critic import N_COUNTERS, PolicyConfig, ReinforcedPolicy, Team
from promptailor.policies.masks import allowed_increments, next_lengths
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import PATTERNS, HistoryPattern

if TYPE_CHECKING:
    from tests.unit.policies.conftest import HashEncoder, ToyWorld

PPO_1, PPO_4 = PolicyConfig(critic="value", team="joint"), PolicyConfig(critic="value", team="heads")
BY_TEAM: dict[Team, PolicyConfig] = {"agents": PolicyConfig(), "heads": PPO_4, "joint": PPO_1}
CONFIGS = [PolicyConfig(), PolicyConfig.paper(), PolicyConfig(pooling="mean", critic="value"), PPO_1, PPO_4]
FIVE = (*PATTERNS, "user_profile")


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
    policy = make(toy, text_encoder, PolicyConfig(personalised=FIVE))
    vector = policy.observe(replace(toy.inputs("a-user-0"), profile=("gender", "age", "occupation")))
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


@pytest.mark.parametrize("team", ["agents", "heads", "joint"])
def test_only_fields_that_are_known_of_the_user_are_chosen(
    team: Team, toy: ToyWorld, text_encoder: HashEncoder
) -> None:
    policy = make(toy, text_encoder, replace(BY_TEAM[team], personalised=FIVE))
    ids = toy.catalogue.user_profile.ids
    expected = {(): {"none"}, ("age",): {"none", "age"}, ("age", "gender"): {"none", "age", "gender", "gender+age"}}
    for known, possible in expected.items():
        vector = policy.observe(replace(toy.inputs("a-user-0"), profile=known))
        choices = [policy.act("user_profile", vector, key=(n,), explore=True) for n in range(120)]
        assert {choice.sentence_id for choice in choices} == possible
        assert all(ids[choice.action] == choice.sentence_id for choice in choices)


@pytest.mark.parametrize("team", ["agents", "heads", "joint"])
def test_only_the_first_sentences_are_chosen(team: Team, toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder, replace(BY_TEAM[team], sentences=2))
    vector = policy.observe(toy.inputs("a-user-0"))
    drawn = {p: {policy.act(p, vector, key=(n,), explore=True).action for n in range(80)} for p in policy.agents}
    lengths = drawn.pop("history_records")
    assert lengths == {0, 1, 2}
    assert all(actions == {0, 1} for actions in drawn.values())


def test_one_actor_over_combinations_draws_once_for_all_patterns(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder, PPO_1)
    sharpen(policy)
    joint = policy.networks.joint
    assert joint is not None
    vector = policy.observe(toy.inputs("a-user-0"))
    state = torch.tensor([vector])
    with torch.no_grad():
        log_probs = policy.networks.log_joint(state[:, :-N_COUNTERS], state[:, -N_COUNTERS:])[0]
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    drawn: Counter[int] = Counter()
    for n in range(300):
        choices = [policy.act(pattern, vector, key=(n, "a-user-0", 0), explore=True) for pattern in PATTERNS]
        number = int(joint.join(torch.tensor([[choice.action for choice in choices]])))
        drawn[number] += 1
        assert sum(choice.log_prob for choice in choices) == pytest.approx(float(log_probs[number]), abs=1e-4)
    for number, count in drawn.most_common(3):
        assert count / 300 == pytest.approx(math.exp(log_probs[number]), abs=0.1)
    served = tuple(policy.act(pattern, vector, key=(), explore=False).action for pattern in PATTERNS)
    assert served == joint.split(int(log_probs.argmax()))


def test_heads_draw_independently_and_combinations_need_not(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    """At the cap the history agent may only stay, in every combination."""
    full = StateInputs(history=toy.history("a-user-0"), step=1, history_length=len(toy.history("a-user-0")))
    for config in (PPO_1, PPO_4):
        policy = make(toy, text_encoder, config)
        vector = policy.observe(full)
        for n in range(50):
            assert policy.act("history_records", vector, key=(n,), explore=True).action == 0
        pairs = {
            tuple(policy.act(p, vector, key=(n,), explore=True).action for p in ("role_playing", "output_format"))
            for n in range(150)
        }
        assert pairs == set(product(range(3), range(5)))


def test_settings_that_came_later_leave_the_digests_of_earlier_policies_alone() -> None:
    assert set(PolicyConfig().settings) == {"state", "pooling", "critic", "hidden", "personalised"}
    assert replace(PPO_4, sentences=3).settings.keys() >= {"sentences", "team"}


def test_one_actor_has_no_factored_critic() -> None:
    with pytest.raises(ValueError, match="team='joint' has one critic of the state; set critic='value'"):
        PolicyConfig(team="joint")
