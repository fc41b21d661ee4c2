"""Actors and critics: two-layer networks, independent per pattern, that all read the global state (RPP, Eq. 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from promptailor.prompts.patterns import PatternName


class TwoLayer(nn.Module):
    """Linear, tanh, linear. Outputs start near zero, so that a new actor chooses nearly uniformly."""

    def __init__(self, n_inputs: int, hidden: int, n_outputs: int, *, fan_in: int, generator: torch.Generator) -> None:
        """Build the network; `fan_in` is how many inputs are of order one, `generator` draws the weights."""
        super().__init__()
        self.hidden = nn.Linear(n_inputs, hidden)
        self.output = nn.Linear(hidden, n_outputs)
        initialise(self.hidden, generator, sd=fan_in**-0.5)
        initialise(self.output, generator, sd=0.1 * hidden**-0.5)

    def forward(self, state: Tensor) -> Tensor:
        """Map states (B, n_inputs) to outputs (B, n_outputs)."""
        out: Tensor = self.output(torch.tanh(self.hidden(state)))
        return out


class SharedTrunk(nn.Module):
    """Two-layer networks of several patterns that share their hidden layer."""

    def __init__(
        self,
        n_inputs: int,
        hidden: int,
        n_outputs: Mapping[PatternName, int],
        *,
        fan_in: int,
        generator: torch.Generator,
    ) -> None:
        """Build the network; `n_outputs` by pattern, the rest as in `TwoLayer`."""
        super().__init__()
        self.hidden = nn.Linear(n_inputs, hidden)
        self.heads = nn.ModuleDict({str(pattern): nn.Linear(hidden, n) for pattern, n in n_outputs.items()})
        initialise(self.hidden, generator, sd=fan_in**-0.5)
        for head in self.heads.values():
            initialise(head, generator, sd=0.1 * hidden**-0.5)

    def forward(self, state: Tensor, pattern: PatternName) -> Tensor:
        """Map states (B, n_inputs) to one pattern's outputs (B, n_outputs)."""
        out: Tensor = self.heads[pattern](torch.tanh(self.hidden(state)))
        return out


class FactoredCritic(nn.Module):
    """One pattern's part of the reward, for every action at once (a counterfactual critic).

    A two-layer network whose output layer is not stepped down a gradient but solved exactly (`policies.additive`): its
    bias is what an action is worth to everybody, its weights what it is worth to this user beside that. The hidden
    layer learns by gradient. The four parts add up to the reward, as in value decomposition networks.
    """

    codes: Tensor

    def __init__(self, n_inputs: int, hidden: int, codes: Tensor, *, fan_in: int, generator: torch.Generator) -> None:
        """Build the network.

        Args:
            n_inputs: length of the state.
            hidden: width of the hidden layer.
            codes: shape (n_options, n_codes); what the output layer reads an option as: the identity for sentences,
                smooth bumps for history lengths, so that neighbouring lengths are judged alike.
            fan_in: how many inputs are of order one.
            generator: draws the weights.
        """
        super().__init__()
        self.hidden = nn.Linear(n_inputs, hidden)
        self.output = nn.Linear(hidden, codes.shape[1]).requires_grad_(False)
        self.register_buffer("codes", codes)
        # Half the usual scale keeps tanh nearly linear, so what is known of a user carries over to a similar one.
        initialise(self.hidden, generator, sd=0.5 * fan_in**-0.5)
        initialise(self.output, generator, sd=0.0)

    def features(self, state: Tensor) -> Tensor:
        """Return what the output layer is a linear function of, shape (B, hidden), entries of order 1/sqrt(hidden)."""
        return torch.tanh(self.hidden(state)) / math.sqrt(self.hidden.out_features)

    def forward(self, state: Tensor) -> Tensor:
        """Return the part of the reward every option is worth, shape (B, n_options)."""
        values: Tensor = self.output(self.features(state)) @ self.codes.T
        return values


def initialise(module: nn.Module, generator: torch.Generator, *, sd: float) -> None:
    """Draw the weight matrices of a module with standard deviation `sd`, never from torch's global generator."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=sd, generator=generator)
            else:
                parameter.zero_()


def entropy(log_probs: Tensor) -> Tensor:
    """Return the entropies of distributions, in nats, shape (B,); impossible actions, with -inf, count nothing."""
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(dim=1)
