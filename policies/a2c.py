"""Advantage actor-critic learning of a `ReinforcedPolicy` (RPP, Eq. 7 to 9 and Algorithm 1).

With clipping and several passes it is proximal policy optimisation (Schulman et al., 2017), of each agent by itself or,
for PPO-1 and PPO-4, of one actor for all patterns: one probability ratio and one advantage for the whole prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from promptailor.policies.actor_critic import ReinforcedPolicy
from promptailor.policies.counterfactual import action_values, actor_loss, critic_loss, solve_critics
from promptailor.policies.draws import uniform
from promptailor.policies.returns import Objective, gae, n_step_returns, objective_rewards
from promptailor.policies.state_encoder import StateFeatures
from promptailor.policies.transitions import Transitions
from promptailor.policies.types import Rollout, TrainingStats

TEMPERATURE_CALLS = 200
"""Calls after which the temperature begins to fall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class A2CConfig:
    """How a policy learns. The defaults belong to factored critics; `paper` and `on_policy` to critics of the state."""

    n_steps: int = 3
    """T, steps per episode."""
    steps_per_update: int = 3
    """`n_steps` updates after whole episodes; 1 after every step of all users."""
    users_per_update: int = 100
    objective: Objective = "final"
    gamma: float = 0.95
    actor_lr: float = 3e-3
    critic_lr: float = 2e-3
    """Also of W and the GRU."""

    # Factored critics
    actor_steps: int = 40
    critic_steps: int = 20
    """Gradient steps per update, each on `batch_size` of all calls so far."""
    batch_size: int = 128
    temperature: float = 0.15
    """Weight of the entropy bonus, in NDCG, at first; it falls with the root of the calls."""

    # Critics of the state
    passes: int = 1
    """Gradient steps on the same episodes."""
    n: int | None = None
    """Steps looked ahead by n-step returns; None takes generalised advantage estimates."""
    gae_lambda: float = 0.95
    entropy_bonus: float = 0.0
    normalise: bool = False
    """Whether advantages are scaled to unit variance over the batch."""
    clip: float | None = None
    """Clips the probability ratio to [1 - clip, 1 + clip], so that several passes stay near the old policy (PPO)."""
    max_grad_norm: float = float("inf")

    @classmethod
    def paper(cls) -> A2CConfig:
        """Return the paper's learner: n = 1, one update per step of all users, Adam 3e-4 and 5e-4, 15 steps once."""
        return cls(
            n_steps=15,
            steps_per_update=1,
            users_per_update=sys.maxsize,
            objective="sum",
            actor_lr=3e-4,
            critic_lr=5e-4,
            n=1,
        )

    @classmethod
    def on_policy(cls) -> A2CConfig:
        """Return the usual remedy for noisy rewards: whole episodes, GAE, entropy bonus, clipping, several passes."""
        return cls(
            actor_lr=1e-3,
            critic_lr=1e-3,
            users_per_update=50,
            entropy_bonus=0.01,
            normalise=True,
            clip=0.2,
            passes=8,
            max_grad_norm=0.5,
        )

    def clipped(self) -> A2CConfig:
        """Return proximal policy optimisation over this learner's episodes, for its objective."""
        names = ("n_steps", "steps_per_update", "users_per_update", "objective", "gamma", "n")
        return replace(self.on_policy(), **{name: getattr(self, name) for name in names})

    def over(self, n_steps: int) -> A2CConfig:
        """Return the same learner for episodes of another length; one that learns from whole episodes still does."""
        whole = self.steps_per_update == self.n_steps
        return replace(self, n_steps=n_steps, steps_per_update=n_steps if whole else self.steps_per_update)


class A2C:
    """Updates a policy from episodes drawn from it. It holds no random state: draws are keyed."""

    def __init__(self, policy: ReinforcedPolicy, config: A2CConfig, *, seed: int) -> None:
        """Start learning; `policy` is changed in place and serves its new weights at once."""
        self.policy, self.config, self.seed = policy, config, seed
        networks = policy.networks
        critics = [*networks.critics.parameters(), *networks.encoder.parameters()]
        self._optimiser = torch.optim.Adam(
            [
                {"params": [*networks.actors.parameters()], "lr": config.actor_lr},
                {"params": [p for p in critics if p.requires_grad], "lr": config.critic_lr},
            ]
        )
        self._replay: Transitions | None = None
        self._user_numbers: dict[str, int] = {}
        self._n_updates = 0

    def update(self, rollouts: Sequence[Rollout]) -> TrainingStats:
        """Learn from new episodes; a rollout may also be the one step that an episode was continued by."""
        new = Transitions.of(rollouts, self.policy, self._user_numbers)
        factored = self.policy.config.critic == "factored"
        losses = self._learn_factored(new) if factored else self._learn_values(rollouts, new)
        self._n_updates += 1
        entropy, divergence = self._entropy_and_divergence(new)
        return TrainingStats(
            mean_reward=float(new.rewards.mean()),
            actor_loss=losses.actor,
            critic_loss=losses.critic,
            entropy=entropy,
            approx_kl=divergence,
            grad_norm=losses.grad_norm,
            gradient_steps=losses.steps,
            extra=losses.extra,
        )

    def _learn_factored(self, new: Transitions) -> _Losses:
        """Solve the critics over all calls so far, then let the actors follow them."""
        config, policy = self.config, self.policy
        replay = new if self._replay is None else Transitions.concatenate([self._replay, new])
        self._replay = replay
        losses = _Losses()
        if self._n_updates:  # before the first solution the output layers are zero, and so are the gradients
            for rows in self._batches(config.critic_steps, "critic"):
                self._step(critic_loss(policy, replay[rows]), losses)
        model = solve_critics(policy, replay)
        with torch.no_grad():
            losses.critic = float(critic_loss(policy, replay))
        values = action_values(policy, replay, n_steps=config.n_steps, objective=config.objective, gamma=config.gamma)
        temperature = config.temperature / (1 + len(replay) / TEMPERATURE_CALLS) ** 0.5
        for rows in self._batches(config.actor_steps, "actor"):
            targets = [value[rows] for value in values]
            losses.actor = self._step(actor_loss(policy, replay[rows], targets, temperature), losses)
        trust = zip(policy.config.personalised, model.trust.tolist(), strict=True)
        losses.extra = {"temperature": temperature, **{f"trust_{pattern}": value for pattern, value in trust}}
        return losses

    def _learn_values(self, rollouts: Sequence[Rollout], new: Transitions) -> _Losses:
        """Step down the actors' and critics' losses of Eq. 8 and 9."""
        networks, config = self.policy.networks, self.config
        ends = StateFeatures.concatenate([self.policy.reader.read(r.final_inputs) for r in rollouts])
        losses = _Losses()
        for _ in range(config.passes):
            state, end_state = networks.encoder(new.features), networks.encoder(ends)
            actor = critic = torch.zeros(())
            for judge, places in networks.learners:
                chosen, entropy = networks.judge(places, state, new.features.counters, new.actions)
                values, end_values = judge(state)[:, 0], judge(end_state)[:, 0]
                returns = self._returns(rollouts, values.detach(), end_values.detach())
                critic = critic + ((returns - values) ** 2).mean()
                gain = self._policy_gain(chosen, new.log_probs[:, places].sum(dim=1), returns - values.detach())
                actor = actor - gain - config.entropy_bonus * entropy.mean()
            losses.actor, losses.critic = actor.item(), critic.item()
            self._step(actor + critic, losses)
        return losses

    def _returns(self, rollouts: Sequence[Rollout], values: Tensor, end_values: Tensor) -> Tensor:
        """Return G_t of every step, shape (B,)."""
        config, start, returns = self.config, 0, []
        for rollout, end_value in zip(rollouts, end_values.tolist(), strict=True):
            end = start + len(rollout.transitions)
            # What is served ends the episode, so "final" has nothing to bootstrap from; a stopping rule ends it too.
            goes_on = rollout.truncated and config.objective == "sum"
            own = [*values[start:end].tolist(), end_value if goes_on else 0.0]
            rewards = objective_rewards([step.reward for step in rollout.transitions], config.objective)
            if config.n is None:
                returns.append(gae(rewards, own, gamma=config.gamma, lam=config.gae_lambda) + own[:-1])
            else:
                returns.append(n_step_returns(rewards, own, gamma=config.gamma, n=config.n))
            start = end
        return torch.tensor(np.concatenate(returns), dtype=torch.float32)

    def _policy_gain(self, chosen: Tensor, before: Tensor, advantages: Tensor) -> Tensor:
        """Return what the actor ascends: log pi * advantage, or with clipping PPO's surrogate."""
        if self.config.normalise:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        if self.config.clip is None:
            return (chosen * advantages).mean()
        ratio = (chosen - before).exp()
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        return torch.minimum(ratio * advantages, clipped * advantages).mean()

    def _batches(self, n: int, purpose: str) -> Iterator[Tensor]:
        """Draw rows of the replay."""
        assert self._replay is not None
        seed = int(uniform(purpose, self.seed, self._n_updates) * 2**53)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(n):
            yield torch.randint(len(self._replay), (self.config.batch_size,), generator=generator)

    def _step(self, loss: Tensor, losses: _Losses) -> float:
        """Take one gradient step and return the loss."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        losses.grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
        self._optimiser.step()
        losses.steps += 1
        return float(loss.detach())

    def _entropy_and_divergence(self, new: Transitions) -> tuple[float, float]:
        """Return the agents' mean entropy after the update, and their mean KL divergence from before it, in nats."""
        networks = self.policy.networks
        entropies, divergences = [], []
        with torch.no_grad():
            state = networks.encoder(new.features)
            for _, places in networks.learners:
                chosen, entropy = networks.judge(places, state, new.features.counters, new.actions)
                log_ratio = chosen - new.log_probs[:, places].sum(dim=1)
                entropies.append(entropy.mean())
                divergences.append((log_ratio.exp() - 1 - log_ratio).mean())
        return float(torch.stack(entropies).mean()), float(torch.stack(divergences).mean())


@dataclass(slots=True)
class _Losses:
    """Losses of the last gradient step, and how many there were."""

    actor: float = 0.0
    critic: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0
    extra: dict[str, float] = field(default_factory=dict)
