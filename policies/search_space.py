"""The joint space of whole prompts, which searches and the bandit choose from."""

from __future__ import annotations

from itertools import product

from promptailor.prompts.patterns import Catalogue, PromptSpec

HISTORY_LENGTHS = (1, 2, 3, 5, 7, 10, 15, 20, 31)
"""Lengths a one-shot policy may show; a stepwise policy reaches the short ones one increment at a time."""


def prompt_space(catalogue: Catalogue, lengths: tuple[int, ...] = HISTORY_LENGTHS) -> tuple[PromptSpec, ...]:
    """Return every combination of role, history length, reasoning and output format; no user profile is shown."""
    return tuple(
        PromptSpec(role_playing=role, history_length=length, reasoning_guidance=reasoning, output_format=output)
        for role, length, reasoning, output in product(
            range(catalogue.n_actions("role_playing")),
            [length for length in lengths if length <= catalogue.history_records.max_length],
            range(catalogue.n_actions("reasoning_guidance")),
            range(catalogue.n_actions("output_format")),
        )
    )
