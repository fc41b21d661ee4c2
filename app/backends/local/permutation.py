"""Decoding that is held to a permutation of the labels, whatever the model would rather write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from promptailor.app.backends.local.labels import LabelTokens, Path


class PermutationWalk:
    """One answer on its way: which labels are written, which are left, and what may come next.

    The ranking is read off the walk and not off the decoded text, so that it is valid for any tokenizer.
    """

    def __init__(self, tokens: LabelTokens, labels: Sequence[str], end: int) -> None:
        self._tokens, self._left, self._end = tokens, list(labels), end
        self._path: Path = ()
        self.ranking: list[str] = []
        self.n_tokens = len(tokens.lead)
        """Written so far, the end included."""
        self._ended = False

    def allowed(self) -> list[int]:
        """Return the tokens that may come next."""
        if self._ended:
            return [self._end]
        if self._complete() is None:
            return self._going_on()
        return [*self._going_on(), *self._starting()]

    def take(self, token: int) -> None:
        """Go on by a token that is allowed; what comes behind the end is padding."""
        if self._ended:
            return
        self.n_tokens += 1
        if token in self._going_on():
            self._path = (*self._path, token)
            return
        label = self._complete()
        if label is None:
            raise ValueError(f"token {token} goes on to no label that is left")
        self.ranking.append(label)
        self._left.remove(label)
        self._path = (token,)
        self._ended = not self._left

    def _forms(self) -> dict[str, Path]:
        forms = self._tokens.later if self.ranking else self._tokens.first
        return {label: forms[label] for label in self._left}

    def _complete(self) -> str | None:
        """Return the label that may end here."""
        return next((label for label, form in self._forms().items() if form == self._path), None)

    def _going_on(self) -> list[int]:
        """Return the tokens by which a label that is left goes on."""
        depth = len(self._path)
        forms = self._forms().values()
        return list(dict.fromkeys(form[depth] for form in forms if len(form) > depth and form[:depth] == self._path))

    def _starting(self) -> list[int]:
        """Return the tokens by which the next label starts, or the end where this is the last."""
        complete = self._complete()
        others = [self._tokens.later[label][0] for label in self._left if label != complete]
        return list(dict.fromkeys(others)) or [self._end]


class PermutationProcessor(LogitsProcessor):
    """Holds each row of a batch to its walk."""

    def __init__(self, walks: Sequence[PermutationWalk]) -> None:
        self._walks = walks
        self._started = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Take the last tokens, and leave only those that may come next."""
        if self._started:
            self.take(input_ids[:, -1].tolist())
        self._started = True
        held: torch.FloatTensor = torch.full_like(scores, -torch.inf)  # type: ignore[assignment]  # typed as Tensor
        for row, walk in enumerate(self._walks):
            allowed = walk.allowed()
            held[row, allowed] = scores[row, allowed]
        return held

    def take(self, tokens: Sequence[int]) -> None:
        """Tell each walk its last token."""
        for walk, token in zip(self._walks, tokens, strict=True):
            walk.take(token)
