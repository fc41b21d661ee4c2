"""The joint space of prompts that one-shot methods choose from: a role, a length, a reasoning guidance, a format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from promptailor.policies.additive import Array, length_codes
from promptailor.policies.draws import sample_index
from promptailor.prompts.patterns import PATTERNS, Catalogue, PromptSpec

Choice = tuple[int, ...]
"""One option per pattern, in the order of `PATTERNS`."""


@dataclass(frozen=True)
class PromptSpace:
    """Every combination of the four patterns' options."""

    catalogue: Catalogue
    lengths: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 15, 20, 30)
    """History lengths to choose from: a one-shot method picks the length itself, not an increment."""

    @cached_property
    def codes(self) -> tuple[Array, ...]:
        """What an additive model reads options as: per pattern shape (n_options, n_codes)."""
        by_length = length_codes(max(self.catalogue.history_records.max_length, *self.lengths))
        sentences = {pattern: np.eye(self.catalogue.n_actions(pattern)) for pattern in PATTERNS}
        return tuple((sentences | {"history_records": by_length[list(self.lengths)]}).values())

    def design(self, choices: Sequence[Choice]) -> list[Array]:
        """Return the codes of choices: per pattern shape (len(choices), n_codes)."""
        return [codes[list(column)] for codes, column in zip(self.codes, zip(*choices, strict=True), strict=True)]

    def spec(self, choice: Choice) -> PromptSpec:
        """Return the prompt of a choice."""
        role, length, reasoning, output = choice
        return PromptSpec(
            role_playing=role,
            history_length=self.lengths[length],
            reasoning_guidance=reasoning,
            output_format=output,
        )

    def random(self, *key: str | int) -> Choice:
        """Draw a choice uniformly; the draw is a function of the key."""
        return tuple(
            sample_index([1 / len(codes)] * len(codes), *key, pattern)
            for pattern, codes in zip(PATTERNS, self.codes, strict=True)
        )

    def __iter__(self) -> Iterator[Choice]:
        """Yield every choice."""
        return product(*(range(len(codes)) for codes in self.codes))
