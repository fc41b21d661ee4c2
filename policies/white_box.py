"""A language model that can be looked into: what a search by gradients asks of it.

The search never decodes. It reads the log-probabilities of the candidates' labels off one forward pass, and the
gradient of a listwise loss with respect to the embeddings of chosen tokens off one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from promptailor.prompts.llm import Message

Floats = NDArray[np.float64]
VocabularyKind = Literal["words", "any"]
"""`words`: of letters only, and no title. `any`: also the candidates' labels, titles of one word and punctuation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhiteBoxPrompt:
    """A prompt as the model's tokens, with places whose tokens may be exchanged."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    """Places in `tokens` whose gradients are asked for."""
    labels: tuple[str, ...]
    """Of the candidates, in shown order."""
    relevant: int
    """Place in `labels` of the relevant candidate. The loss reads it; no token depends on it."""

    def exchanged(self, tokens: Sequence[int]) -> WhiteBoxPrompt:
        """Return the prompt with other tokens at its positions."""
        changed = list(self.tokens)
        for position, token in zip(self.positions, tokens, strict=True):
            changed[position] = token
        return replace(self, tokens=tuple(changed))


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerVocabulary:
    """Words that may be triggers: written behind a blank, each is one token and reads back as itself."""

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    """Of each word."""
    embeddings: Floats
    """Of each word, shape (words, dim)."""

    def token_of(self, word: str) -> int:
        """Return the token of a word; it must be in the vocabulary."""
        return self.tokens[self.words.index(word)]


@runtime_checkable
class WhiteBox(Protocol):
    """A causal or sequence-to-sequence language model in this process."""

    def vocabulary(self, kind: VocabularyKind, barred: Collection[str] = ()) -> TriggerVocabulary:
        """Return the words that survive the way into text and back; `barred` ones, in any case, are no `words`."""
        ...

    def encode(
        self, messages: Sequence[Message], *, labels: Sequence[str], relevant: int, triggers: Sequence[str]
    ) -> WhiteBoxPrompt | None:
        """Encode a prompt that ends with triggers, and find them; None where their text is tokenised as another.

        Raises:
            InputError: the prompt is longer than the model's context, or a label is not one of its numbers.
        """
        ...

    def embed(self, tokens: Sequence[int]) -> Floats:
        """Return the embeddings of any tokens, shape (tokens, dim)."""
        ...

    def label_log_probs(self, prompts: Sequence[WhiteBoxPrompt]) -> list[Floats]:
        """Return the log-probability of each label, given that the answer is one: one forward pass per batch."""
        ...

    def gradients(self, prompts: Sequence[WhiteBoxPrompt]) -> tuple[Floats, Floats]:
        """Return each prompt's listwise loss and its gradient: one forward and one backward pass per batch.

        The loss is -log p(relevant label | one of the labels), the softmax cross-entropy of ListNet with one relevant
        candidate. Prompts must have equally many positions.

        Returns:
            Losses, shape (prompts,), and gradients with respect to the embeddings of the tokens at the positions,
            shape (prompts, positions, dim).
        """
        ...


@dataclass(kw_only=True)
class Meter:
    """Counts the prompts that a white box is asked about, and tells of them beforehand."""

    box: WhiteBox
    spend: Callable[[int], None] = lambda n: None
    """Told of so many prompts before they are computed; may raise to end a search."""
    prompts: int = 0

    def label_log_probs(self, prompts: Sequence[WhiteBoxPrompt]) -> list[Floats]:
        """Ask for scores."""
        self._count(len(prompts))
        return self.box.label_log_probs(prompts)

    def gradients(self, prompts: Sequence[WhiteBoxPrompt]) -> Floats:
        """Ask for gradients; a prompt counts as one whether scored or differentiated."""
        self._count(len(prompts))
        return self.box.gradients(prompts)[1]

    def _count(self, n: int) -> None:
        self.spend(n)
        self.prompts += n
