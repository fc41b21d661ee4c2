"""The default learner's losses: every call teaches every agent what each of its actions is worth.

What a language model answers depends on its prompt alone, and the history length is a counter that we keep ourselves.
So the reward of a prompt for a user is all there is to learn; what follows from an action is known. Departures from
the paper, which fits V(s) to the latest step and credits all agents with the same advantage:

* critic k predicts pattern k's part of r_t for every action of its agent (counterfactual critics, as in COMA);
* the parts add up to r_t (as in value decomposition networks) and are regressed on all calls so far, whoever chose;
* actor k follows the expected policy gradient over all its actions, with an entropy bonus, not the sampled one;
* the history agent plans over the counter, so that growing slowly towards a long history is worth it from the start.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from promptailor.policies.actor_critic import ReinforcedPolicy
from promptailor.policies.additive import AdditiveModel, fit_additive
from promptailor.policies.masks import allowed_increments, mask_actions, next_lengths
from promptailor.policies.networks import FactoredCritic
from promptailor.policies.returns import Objective
from promptailor.policies.transitions import Transitions
from promptailor.prompts.patterns import HistoryPattern


def solve_critics(policy: ReinforcedPolicy, replay: Transitions) -> AdditiveModel:
    """Set the output layers of the factored critics to their optimum over all calls so far.

    The hidden layers, W and the GRU stay as they are (variable projection: they learn by gradient, from
    `critic_loss`, at the output layers' optimum).
    """
    critics = _critics(policy)
    with torch.no_grad():
        state = policy.networks.encoder(replay.features)
        codes = [
            critic.codes[option].double().numpy()
            for critic, option in zip(critics, _options(policy, replay), strict=True)
        ]
        features = [critic.features(state).double().numpy() for critic in critics]
        model = fit_additive(codes, features, replay.rewards.double().numpy(), replay.users.numpy())
        for critic, shared, personal in zip(critics, model.shared, model.personal, strict=True):
            # The intercept is dealt out evenly, so that the parts add up to the reward itself.
            critic.output.bias.copy_(torch.from_numpy(shared + model.intercept / len(critics)))
            critic.output.weight.copy_(torch.from_numpy(personal))
    return model


def critic_loss(policy: ReinforcedPolicy, rows: Transitions) -> Tensor:
    """Return the mean of (r_t - sum of the critics' parts)^2; gradients reach the hidden layers, W and the GRU."""
    state = policy.networks.encoder(rows.features)
    parts = [
        critic(state).gather(1, option[:, None])[:, 0]
        for critic, option in zip(_critics(policy), _options(policy, rows), strict=True)
    ]
    return ((rows.rewards - torch.stack(parts).sum(dim=0)) ** 2).mean()


def action_values(
    policy: ReinforcedPolicy, rows: Transitions, *, n_steps: int, objective: Objective, gamma: float
) -> list[Tensor]:
    """Return Q_k(s, a) per agent, each of shape (B, n_actions); masked actions are -inf.

    A sentence does not change what comes after it, so its Q is its part of r_t; every step could be the last one.
    The history agent's Q looks ahead: `plan_lengths`.
    """
    history = policy.networks.history
    with torch.no_grad():
        state = policy.networks.encoder(rows.features)
        values = [cast(Tensor, critic(state)) for critic in _critics(policy)]
        for place, pattern in enumerate(policy.config.personalised):
            if pattern == "history_records":
                values[place] = plan_lengths(
                    values[place], rows.features.counters, history, n_steps=n_steps, objective=objective, gamma=gamma
                )
            else:
                values[place] = mask_actions(values[place], pattern, policy.catalogue, rows.features.counters)
    return values


def actor_loss(policy: ReinforcedPolicy, rows: Transitions, values: list[Tensor], temperature: float) -> Tensor:
    """Return minus the expected value of the agents' choices, entropy included, in units of the temperature.

    Per agent the mean over states of sum_a pi(a|s) (log pi(a|s) - Q(s, a) / temperature): its gradient is the policy
    gradient with every action taken in proportion, so it has no sampling noise.
    """
    state = policy.networks.encoder(rows.features)
    losses = []
    for pattern, value in zip(policy.config.personalised, values, strict=True):
        log_probs = policy.networks.log_policy(pattern, state, rows.features.counters)
        masked = value == -torch.inf  # taken out before they are multiplied: 0 * inf has no gradient
        cost = log_probs.masked_fill(masked, 0.0) - value.masked_fill(masked, 0.0) / temperature
        losses.append((log_probs.exp() * cost).sum(dim=1).mean())
    return torch.stack(losses).sum()


def plan_lengths(
    worth: Tensor, counters: Tensor, history: HistoryPattern, *, n_steps: int, objective: Objective, gamma: float
) -> Tensor:
    """Return the history agent's Q(s_t, a), shape (B, n_increments), by dynamic programming over the steps to come.

    Args:
        worth: part of the reward that showing 0, 1, ... L_max interactions is worth, shape (B, L_max + 1).
        counters: l_{t-1}, the cap min(|H|, L_max) and t, shape (B, 3) or wider.
        history: the increments.
        n_steps: T.
        objective: with "final" only the last step's reward counts, undiscounted.
        gamma: discount of "sum".
    """
    n_rows, n_lengths = worth.shape
    lengths = torch.arange(n_lengths)[None, :, None] + torch.tensor(history.increments)
    moves = torch.minimum(lengths, counters[:, 1, None, None].long())
    chosen, steps_left = next_lengths(history, counters), n_steps - 1 - counters[:, 2]
    to_come = worth
    planned = to_come.gather(1, chosen)
    for left in range(1, n_steps):
        best = to_come.gather(1, moves.reshape(n_rows, -1)).reshape(moves.shape).amax(dim=2)
        to_come = best if objective == "final" else worth + gamma * best
        planned = torch.where((steps_left >= left)[:, None], to_come.gather(1, chosen), planned)
    return planned.masked_fill(~allowed_increments(history, counters), -torch.inf)


def _critics(policy: ReinforcedPolicy) -> list[FactoredCritic]:
    return [cast(FactoredCritic, critic) for critic in policy.networks.critics.values()]


def _options(policy: ReinforcedPolicy, rows: Transitions) -> list[Tensor]:
    """Return per agent which option its critic values: the sentence, or the history length that was shown."""
    return [
        rows.lengths if pattern == "history_records" else rows.actions[:, place]
        for place, pattern in enumerate(policy.config.personalised)
    ]
