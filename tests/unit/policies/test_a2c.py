"""The learner: the paper's update to the letter, and a default that learns from few calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from promptailor.policies.a2c import A2C, A2CConfig
from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy, Team
from promptailor.policies.types import Rollout
from promptailor.prompts.patterns import PATTERNS

if TYPE_CHECKING:
    from tests.unit.policies.conftest import HashEncoder, ToyWorld

SHORT = A2CConfig(n_steps=2, steps_per_update=2)


def make(toy: ToyWorld, text: HashEncoder, config: PolicyConfig | None = None) -> ReinforcedPolicy:
    return ReinforcedPolicy(config or PolicyConfig(), toy.catalogue, embeddings=toy.embeddings, encoder=text)


def served(toy: ToyWorld, policy: ReinforcedPolicy) -> float:
    """Return the mean noise-free reward of the greedy policy on new users."""
    users = [f"{kind}-new-{n}" for kind in "ab" for n in range(20)]
    quiet = type(toy)(toy.catalogue, noise=0.0)
    return sum(quiet.rollout(policy, u, explore=False).transitions[-1].reward for u in users) / len(users)


def single_step(toy: ToyWorld, policy: ReinforcedPolicy, user: str, *, truncated: bool = True) -> Rollout:
    """Return the second step of an episode, as a rollout of its own."""
    whole = toy.rollout(policy, user)
    return Rollout(
        user_id=user, transitions=whole.transitions[1:], final_inputs=whole.final_inputs, truncated=truncated
    )


@pytest.mark.parametrize("truncated", [True, False])
def test_the_papers_update_by_hand(toy: ToyWorld, text_encoder: HashEncoder, truncated: bool) -> None:
    config = A2CConfig.paper()
    policy, twin = (make(toy, text_encoder, PolicyConfig.paper()) for _ in range(2))
    rollouts = [single_step(toy, policy, user, truncated=truncated) for user in toy.user_ids[:5]]
    stats = A2C(policy, config, seed=0).update(rollouts)

    actors = torch.optim.Adam(twin.networks.actors.parameters(), lr=3e-4)
    others = torch.optim.Adam([*twin.networks.critics.parameters(), *twin.networks.encoder.parameters()], lr=5e-4)
    loss = torch.zeros(())
    for pattern in twin.agents:
        for rollout in rollouts:
            (step,) = rollout.transitions
            now, then = twin.reader.read(step.inputs), twin.reader.read(rollout.final_inputs)
            state = twin.networks.encoder(now)
            value = twin.networks.critics[pattern](state)[0, 0]
            with torch.no_grad():
                next_value = twin.networks.critics[pattern](twin.networks.encoder(then))[0, 0]
            target = step.reward + 0.95 * float(next_value) * truncated
            log_prob = twin.networks.log_policy(pattern, state, now.counters)[0, step.choices[pattern].action]
            loss = loss + ((target - value) ** 2 - log_prob * (target - value.detach())) / len(rollouts)
    loss.backward()  # type: ignore[no-untyped-call]
    actors.step()
    others.step()
    for (name, ours), theirs in zip(policy.networks.named_parameters(), twin.networks.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name
    assert stats.gradient_steps == 1
    assert stats.mean_reward == pytest.approx(sum(r.transitions[0].reward for r in rollouts) / 5)


@pytest.mark.parametrize(
    ("policy_config", "config"),
    [
        (PolicyConfig(), SHORT),
        (PolicyConfig.paper(), A2CConfig.paper()),
        (PolicyConfig(critic="value"), A2CConfig.on_policy()),
        (PolicyConfig(critic="value", team="joint"), A2CConfig.on_policy()),
        (PolicyConfig(critic="value", team="heads"), A2CConfig.on_policy()),
    ],
    ids=["default", "paper", "on_policy", "ppo-1", "ppo-4"],
)
def test_every_network_learns_and_twice_the_same(
    policy_config: PolicyConfig, config: A2CConfig, toy: ToyWorld, text_encoder: HashEncoder
) -> None:
    digests = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        policy = make(toy, text_encoder, policy_config)
        before = {name: p.detach().clone() for name, p in policy.networks.named_parameters()}
        learner = A2C(policy, config, seed=3)
        for seed in range(2):
            learner.update([toy.rollout(policy, user, seed=seed) for user in toy.user_ids])
        for name, parameter in policy.networks.named_parameters():
            assert not torch.equal(parameter, before[name]), name
        digests.append(policy.digest)
    assert digests[0] == digests[1]


def test_the_default_learns_from_few_noisy_calls(make_toy: Callable[..., ToyWorld], text_encoder: HashEncoder) -> None:
    toy = make_toy(noise=0.12)
    policy = make(toy, text_encoder)
    learner = A2C(policy, SHORT, seed=0)
    untrained = served(toy, policy)
    for epoch in range(8):
        learner.update([toy.rollout(policy, user, seed=epoch) for user in toy.user_ids])
    assert served(toy, policy) > 0.9
    assert untrained < 0.75


def test_without_anything_to_learn_the_policy_stays_near_one_prompt(
    make_toy: Callable[..., ToyWorld], text_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make_toy(noise=0.3)
    monkeypatch.setattr(type(toy), "worth", lambda self, user_id, spec: 0.5)
    policy = make(toy, text_encoder)
    learner = A2C(policy, SHORT, seed=0)
    for epoch in range(4):
        stats = learner.update([toy.rollout(policy, user, seed=epoch) for user in toy.user_ids])
    trust = [value for name, value in stats.extra.items() if name.startswith("trust")]
    assert sum(trust) / len(trust) < 0.5


def test_a_stopped_episode_is_worth_only_its_rewards(toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder, PolicyConfig.paper())
    with torch.no_grad():
        for critic in policy.networks.critics.values():
            critic.output.bias.fill_(10.0)  # type: ignore[union-attr, operator]
    losses = [
        A2C(make_like(policy, toy, text_encoder), A2CConfig.paper(), seed=0)
        .update([single_step(toy, policy, "a-user-0", truncated=truncated)])
        .critic_loss
        for truncated in (True, False)
    ]
    assert losses[1] > 10 * losses[0]


def make_like(policy: ReinforcedPolicy, toy: ToyWorld, text: HashEncoder) -> ReinforcedPolicy:
    """Return a copy."""
    copy = make(toy, text, policy.config)
    copy.networks.load_state_dict(policy.networks.state_dict())
    return copy


@pytest.mark.parametrize("team", ["heads", "joint"])
def test_one_actors_update_by_hand(team: Team, toy: ToyWorld, text_encoder: HashEncoder) -> None:
    """The second pass: one probability ratio and one advantage for the whole prompt, clipped."""
    config = A2CConfig(objective="sum", n=1, clip=0.005, passes=2, actor_lr=1e-3, critic_lr=1e-3)
    policy, twin = (make(toy, text_encoder, PolicyConfig(critic="value", team=team)) for _ in range(2))
    rollouts = [single_step(toy, policy, user) for user in toy.user_ids[:6]]
    A2C(policy, config, seed=0).update(rollouts)

    optimiser = torch.optim.Adam(twin.networks.parameters(), lr=1e-3)
    critic = twin.networks.critics["shared"]
    clipped = 0
    for _ in range(2):
        loss = torch.zeros(())
        for rollout in rollouts:
            (step,) = rollout.transitions
            now, then = twin.reader.read(step.inputs), twin.reader.read(rollout.final_inputs)
            state = twin.networks.encoder(now)
            value = critic(state)[0, 0]
            with torch.no_grad():
                target = step.reward + 0.95 * critic(twin.networks.encoder(then))[0, 0]
                before = sum(choice.log_prob for choice in step.choices.values())
            actions = torch.tensor([[step.choices[pattern].action for pattern in twin.agents]])
            if team == "joint":
                joint = twin.networks.joint
                assert joint is not None
                log_prob = twin.networks.log_joint(state, now.counters)[0, int(joint.join(actions))]
            else:
                policies = [twin.networks.log_policy(p, state, now.counters) for p in twin.agents]
                log_prob = torch.stack([p[0, int(a)] for p, a in zip(policies, actions[0], strict=True)]).sum()
            ratio, advantage = (log_prob - before).exp(), target - value.detach()
            clipped += int(abs(float(ratio.detach()) - 1) > 0.005)
            gain = torch.minimum(ratio * advantage, ratio.clamp(0.995, 1.005) * advantage)
            loss = loss + ((target - value) ** 2 - gain) / len(rollouts)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert clipped, "nothing was clipped, so clipping was not tested"
    for (name, ours), theirs in zip(policy.networks.named_parameters(), twin.networks.parameters(), strict=True):
        if not name.startswith("encoder"):  # gradients that are nearly zero there become steps of Adam's full size
            assert torch.allclose(ours, theirs, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("team", ["heads", "joint"])
def test_one_actor_learns_too(team: Team, toy: ToyWorld, text_encoder: HashEncoder) -> None:
    policy = make(toy, text_encoder, PolicyConfig(critic="value", team=team))
    learner = A2C(policy, A2CConfig.on_policy().over(2), seed=0)
    untrained = served(toy, policy)
    for epoch in range(60):
        learner.update([toy.rollout(policy, user, seed=epoch) for user in toy.user_ids])
    assert served(toy, policy) > untrained + 0.1


@pytest.mark.parametrize("team", ["agents", "heads", "joint"])
def test_unknown_profiles_and_few_sentences_leave_no_gradient_undefined(
    team: Team, toy: ToyWorld, text_encoder: HashEncoder
) -> None:
    """Masked actions have no probability, and 0 * inf no gradient."""
    five = (*PATTERNS, "user_profile")
    design = PolicyConfig(critic="factored" if team == "agents" else "value", team=team)
    policy = make(toy, text_encoder, replace(design, personalised=five, sentences=2))
    learner = A2C(policy, SHORT if team == "agents" else A2CConfig.on_policy().over(2), seed=0)
    for seed in range(2):
        stats = learner.update([toy.rollout(policy, user, seed=seed) for user in toy.user_ids[:8]])
    assert all(bool(parameter.isfinite().all()) for parameter in policy.networks.parameters())
    assert math.isfinite(stats.entropy)
    assert math.isfinite(stats.approx_kl)


def test_another_number_of_steps_keeps_whole_episodes_whole() -> None:
    assert (A2CConfig().over(7).n_steps, A2CConfig().over(7).steps_per_update) == (7, 7)
    assert (A2CConfig.paper().over(7).n_steps, A2CConfig.paper().over(7).steps_per_update) == (7, 1)


def test_clipping_keeps_the_episodes_and_the_objective() -> None:
    clipped, paper = A2CConfig.paper().clipped(), A2CConfig.paper()
    assert (clipped.n_steps, clipped.objective, clipped.n) == (paper.n_steps, paper.objective, paper.n)
    assert clipped.clip == A2CConfig.on_policy().clip
    assert clipped.passes > 1
