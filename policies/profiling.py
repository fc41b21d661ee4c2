"""How a policy has a model describe users and items before it ranks for them (AGP)."""

from __future__ import annotations

from pydantic import Field, field_validator

from promptailor.prompts.domain import Model
from promptailor.prompts.guidance import MAX_INSTRUCTION_LENGTH
from promptailor.prompts.patterns import check_sentence

SEQUENCE_LENGTH = 5
"""Items of the history that a profile is written from; AGP's best (its figure 2)."""


class Profiling(Model):
    """What the graph writes before a policy chooses, and by which instruction."""

    instruction: str | None = Field(None, min_length=1, max_length=2 * MAX_INSTRUCTION_LENGTH)
    """p_gen, a template of domain words, by which the user's profile is written; None writes none."""
    sequence_length: int = Field(SEQUENCE_LENGTH, ge=1)
    """Most recent items that the profile is written from."""
    summaries: bool = True
    """Whether a summary of each item is written, which the profiler and the prompt show behind the title."""
    profiler: str | None = None
    """`provider:model` that writes both; the recommender where empty."""

    @field_validator("instruction")
    @classmethod
    def _is_template(cls, text: str | None) -> str | None:
        if text is not None:
            check_sentence("instruction", text)
        return text
