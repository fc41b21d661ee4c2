"""The joint space of prompts that one-shot methods choose from: a role, a length, a reasoning guidance, a format.

It may be smaller, for ablations: some patterns only, or some sentences only. What does not vary stays as in the manual
prompt. It may be larger by the optional fifth pattern, the user's profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from promptailor.policies.additive import Array, length_codes
from promptailor.policies.draws import sample_index
from promptailor.prompts.patterns import PATTERNS, Catalogue, PatternName, PromptSpec

Choice = tuple[int, ...]
"""One option per pattern that varies, in the order of `PromptSpace.patterns`."""


@dataclass(frozen=True)
class PromptSpace:
    """Every combination of the patterns' options."""

    catalogue: Catalogue
    lengths: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 15, 20, 30)
    """History lengths to choose from: a one-shot method picks the length itself, not an increment."""
    patterns: tuple[PatternName, ...] = PATTERNS
    """What varies."""
    sentences: int | None = None
    """Only the first so many sentences of each sentence pattern are options; None: all of them."""

    @property
    def manual(self) -> PromptSpec:
        """The prompt that the patterns which do not vary are taken from; with every profile field where these vary."""
        catalogue = self.catalogue
        return catalogue.manual_profile_prompt if "user_profile" in self.patterns else catalogue.manual_prompt

    @cached_property
    def codes(self) -> tuple[Array, ...]:
        """What an additive model reads options as: per pattern shape (n_options, n_codes)."""
        by_length = length_codes(max(self.catalogue.history_records.max_length, *self.lengths))
        return tuple(
            by_length[list(self.lengths)]
            if pattern == "history_records"
            else np.eye(self.catalogue.n_actions(pattern, self.sentences))
            for pattern in self.patterns
        )

    def design(self, choices: Sequence[Choice]) -> list[Array]:
        """Return the codes of choices: per pattern shape (len(choices), n_codes)."""
        return [codes[list(column)] for codes, column in zip(self.codes, zip(*choices, strict=True), strict=True)]

    def spec(self, choice: Choice) -> PromptSpec:
        """Return the prompt of a choice."""
        options: dict[str, int] = dict(zip(self.patterns, choice, strict=True))
        if "history_records" in options:
            options["history_length"] = self.lengths[options.pop("history_records")]
        return self.manual.model_copy(update=options)

    def choice(self, spec: PromptSpec) -> Choice:
        """Return the choice that makes a prompt; of a length that is no option, the nearest that is."""
        return tuple(
            min(range(len(self.lengths)), key=lambda option: abs(self.lengths[option] - spec.history_length))
            if pattern == "history_records"
            else getattr(spec, pattern) or 0
            for pattern in self.patterns
        )

    def random(self, *key: str | int) -> Choice:
        """Draw a choice uniformly; the draw is a function of the key."""
        return tuple(
            sample_index([1 / len(codes)] * len(codes), *key, pattern)
            for pattern, codes in zip(self.patterns, self.codes, strict=True)
        )

    def __iter__(self) -> Iterator[Choice]:
        """Yield every choice."""
        return product(*(range(len(codes)) for codes in self.codes))
