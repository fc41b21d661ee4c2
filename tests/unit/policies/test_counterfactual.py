"""Factored critics are solved to their optimum, and actors follow every action's worth."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch

from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy
from promptailor.policies.counterfactual import action_values, actor_loss, critic_loss, plan_lengths, solve_critics
from promptailor.policies.returns import Objective
from promptailor.policies.transitions import Transitions
from promptailor.prompts.patterns import PATTERNS, HistoryPattern

if TYPE_CHECKING:
    from tests.unit.policies.conftest import HashEncoder, ToyWorld

HISTORY = HistoryPattern(initial_length=1, increments=(0, 1, 2), max_length=9, text="t")
GAMMA = 0.9


@pytest.fixture
def policy(toy: ToyWorld, text_encoder: HashEncoder) -> ReinforcedPolicy:
    return ReinforcedPolicy(PolicyConfig(), toy.catalogue, embeddings=toy.embeddings, encoder=text_encoder)


@pytest.fixture
def replay(toy: ToyWorld, policy: ReinforcedPolicy) -> Transitions:
    rollouts = [toy.rollout(policy, user, seed=seed) for seed in range(5) for user in toy.user_ids]
    return Transitions.of(rollouts, policy, {})


def brute_force(worth: list[float], length: int, cap: int, first: int, left: int, objective: Objective) -> float:
    """Try every sequence of increments that begins with `first`."""
    best = float("-inf")
    for rest in product(HISTORY.increments, repeat=left):
        now, gains = length, []
        for increment in (HISTORY.increments[first], *rest):
            now = min(now + increment, cap)
            gains.append(worth[now])
        total = gains[-1] if objective == "final" else sum(GAMMA**t * gain for t, gain in enumerate(gains))
        best = max(best, total)
    return best


@pytest.mark.parametrize("objective", ["final", "sum"])
def test_planning_finds_what_trying_every_sequence_finds(objective: Objective) -> None:
    n_steps = 4
    rows = [(1, 9, 0), (1, 9, 3), (2, 5, 1), (4, 5, 2), (3, 9, 1)]
    worth = torch.rand(len(rows), 10, generator=torch.Generator().manual_seed(0))
    counters = torch.tensor(rows, dtype=torch.float32)
    planned = plan_lengths(worth, counters, HISTORY, n_steps=n_steps, objective=objective, gamma=GAMMA)
    for (length, cap, step), values, by_length in zip(rows, planned.tolist(), worth.tolist(), strict=True):
        for first, value in enumerate(values):
            expected = brute_force(by_length, length, cap, first, n_steps - 1 - step, objective)
            assert value == pytest.approx(expected, abs=1e-6)


def test_planning_masks_increments_at_the_cap() -> None:
    planned = plan_lengths(
        torch.zeros(1, 10), torch.tensor([[5.0, 5.0, 0.0]]), HISTORY, n_steps=3, objective="final", gamma=GAMMA
    )
    assert planned.isneginf().tolist() == [[False, True, True]]


def test_solved_critics_tell_the_best_action_of_each_kind_of_user(
    toy: ToyWorld, policy: ReinforcedPolicy, replay: Transitions
) -> None:
    before = float(critic_loss(policy, replay).detach())
    solve_critics(policy, replay)
    assert float(critic_loss(policy, replay).detach()) < 0.2 * before
    values = action_values(policy, replay, n_steps=2, objective="final", gamma=GAMMA)
    kinds = torch.arange(toy.n_users)[replay.users] % 2
    for kind, (role, reasoning, output) in enumerate([(0, 1, 2), (1, 6, 0)]):
        rows = kinds == kind
        for pattern, best in (("role_playing", role), ("reasoning_guidance", reasoning), ("output_format", output)):
            found = values[PATTERNS.index(pattern)][rows].mean(dim=0).argmax()
            assert found == best, pattern


def test_the_critics_loss_reaches_w_the_gru_and_the_hidden_layers(
    policy: ReinforcedPolicy, replay: Transitions
) -> None:
    solve_critics(policy, replay)
    critic_loss(policy, replay).backward()  # type: ignore[no-untyped-call]
    for name, parameter in policy.networks.named_parameters():
        learns = parameter.requires_grad and not name.startswith("actors")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


def test_the_actors_gradient_is_the_expected_policy_gradient(policy: ReinforcedPolicy, replay: Transitions) -> None:
    rows, temperature = replay[torch.arange(1)], 0.1
    values = action_values(policy, rows, n_steps=2, objective="final", gamma=GAMMA)
    values[0] = torch.tensor([[0.3, 0.1, 0.2]])
    actor_loss(policy, rows, values, temperature).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        log_probs = policy.networks.log_policy(
            "role_playing", policy.networks.encoder(rows.features), rows.features.counters
        )
    probs = log_probs.exp()
    advantage = values[0] / temperature - log_probs
    expected = -probs * (advantage - (probs * advantage).sum())
    gradient = policy.networks.get_parameter("actors.role_playing.output.bias").grad
    assert gradient is not None
    assert torch.allclose(gradient, expected[0], atol=1e-5)


def test_the_actors_loss_reaches_w_and_the_gru_and_leaves_the_critics(
    policy: ReinforcedPolicy, replay: Transitions
) -> None:
    values = action_values(policy, replay, n_steps=2, objective="final", gamma=GAMMA)
    actor_loss(policy, replay, values, 0.1).backward()  # type: ignore[no-untyped-call]
    for name, parameter in policy.networks.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (not name.startswith("critics")), name


def test_increments_masked_at_the_cap_leave_gradients_finite(toy: ToyWorld, policy: ReinforcedPolicy) -> None:
    rows = Transitions.of([toy.rollout(policy, user, n_steps=9) for user in toy.user_ids], policy, {})
    values = action_values(policy, rows, n_steps=9, objective="final", gamma=GAMMA)
    assert values[PATTERNS.index("history_records")].isneginf().any()
    actor_loss(policy, rows, values, 0.1).backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in policy.networks.parameters() if p.grad is not None)
