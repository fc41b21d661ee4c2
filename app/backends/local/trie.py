"""The labels of a prompt as a tree of tokens: next-token probabilities become probabilities of labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from promptailor.app.backends.local.labels import Path

Places = tuple[tuple[int, Path], ...]
"""Depths in a row, and the tokens that may come next there."""

_LEAST = -1e4
"""Log-probabilities below are as good as none; minus infinity would make sums of products undefined."""
_MOST = 1 - 1e-9
"""Of the probability that a label goes on; rounding may pass 1."""


class LabelTrie:
    """Reads the probability of each label off the next-token probabilities at the tree's inner nodes.

    A label is the path of its tokens, and ends where no other label goes on: with the labels 1 to 10, written in
    digits, P(10) = p(1) p(0|1) and P(1) = p(1) (1 - p(0|1)).

    Args:
        paths: the labels' tokens, each once and none empty.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        children: dict[Path, dict[int, None]] = {}
        for path in paths:
            for depth, token in enumerate(path):
                children.setdefault(path[:depth], {})[token] = None
        self.rows = _rows({node: tuple(tokens) for node, tokens in children.items()})
        """What to append to the prompt, and the places to read there; every inner node is read once."""
        edges = [(*tail[:depth], token) for tail, places in self.rows for depth, tokens in places for token in tokens]
        self._along = _matrix([[path[: len(edge)] == edge for edge in edges] for path in paths])
        self._beyond = _matrix([[edge[:-1] == path for edge in edges] for path in paths])

    def log_probs(self, edges: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of each label, given that the answer is one of them.

        Args:
            edges: log-probabilities of the tokens at the places of the rows, one after another.
        """
        edges = edges.double().clamp(min=_LEAST)
        goes_on = (self._beyond @ edges.exp()).clamp(max=_MOST)
        return torch.log_softmax(self._along @ edges + torch.log1p(-goes_on), dim=0)


def _rows(children: dict[Path, Path]) -> tuple[tuple[Path, Places], ...]:
    """Return the fewest rows that pass every inner node."""
    left = dict(children)
    rows = []
    for tail in sorted(children, key=len, reverse=True):
        if tail in left:
            places = [(depth, left.pop(tail[:depth])) for depth in range(len(tail) + 1) if tail[:depth] in left]
            rows.append((tail, tuple(places)))
    return tuple(rows)


def _matrix(rows: list[list[bool]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)
