"""Actors and critics: two-layer networks, independent per pattern, that all read the global state (RPP, Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoLayer(nn.Module):
    """Linear, tanh, linear. Outputs start near zero, so that a new actor chooses nearly uniformly."""

    def __init__(self, n_inputs: int, hidden: int, n_outputs: int, *, generator: torch.Generator) -> None:
        """Draw the weights from `generator`, never from the global one."""
        super().__init__()
        self.hidden = nn.Linear(n_inputs, hidden)
        self.output = nn.Linear(hidden, n_outputs)
        initialise(self, generator)
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.zero_()

    def forward(self, state: Tensor) -> Tensor:
        """Map states (B, n_inputs) to outputs (B, n_outputs)."""
        out: Tensor = self.output(torch.tanh(self.hidden(state)))
        return out


class FactoredCritic(nn.Module):
    """One pattern's part of the reward, for every action at once (a counterfactual critic).

    A two-layer network whose output layer is not stepped down a gradient but solved exactly (`policies.additive`): its
    bias is what an action is worth to everybody, its weights what it is worth to this user beside that. The hidden
    layer learns by gradient. The four parts add up to the reward, as in value decomposition networks.
    """

    codes: Tensor

    def __init__(self, n_inputs: int, hidden: int, codes: Tensor, *, generator: torch.Generator) -> None:
        """Build the network.

        Args:
            n_inputs: length of the state.
            hidden: width of the hidden layer.
            codes: shape (n_options, n_codes); what the output layer reads an option as: the identity for sentences,
                smooth bumps for history lengths, so that neighbouring lengths are judged alike.
            generator: source of the initial weights.
        """
        super().__init__()
        self.hidden = nn.Linear(n_inputs, hidden)
        self.output = nn.Linear(hidden, codes.shape[1]).requires_grad_(False)
        self.register_buffer("codes", codes)
        initialise(self, generator)
        with torch.no_grad():
            # Half the usual scale keeps tanh nearly linear, so what is known of a user carries over to a similar one.
            self.hidden.weight.mul_(0.5)
            self.output.weight.zero_()
            self.output.bias.zero_()

    def features(self, state: Tensor) -> Tensor:
        """Return what the output layer is a linear function of, shape (B, hidden), entries of order 1/sqrt(hidden)."""
        return torch.tanh(self.hidden(state)) / self.hidden.out_features**0.5

    def forward(self, state: Tensor) -> Tensor:
        """Return the part of the reward every option is worth, shape (B, n_options)."""
        values: Tensor = self.output(self.features(state)) @ self.codes.T
        return values


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight matrix of a module with variance 1 / fan-in and zero the biases."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.zero_()
