"""What agents' actions add up to: the prompt of a step."""

from __future__ import annotations

from collections.abc import Mapping

from promptailor.prompts.patterns import Catalogue, PatternName, PromptSpec, SentencePattern


def prompt_of_actions(
    catalogue: Catalogue, actions: Mapping[PatternName, int], *, length_before: int, available: int
) -> PromptSpec:
    """Return the prompt; a pattern without an action keeps the manual prompt's sentence or length.

    Args:
        catalogue: the patterns.
        actions: by pattern.
        length_before: l_{t-1}, interactions that the previous prompt asked for; the initial length at t = 0.
        available: |H|.
    """
    manual = catalogue.manual_prompt
    if "history_records" in actions:
        length = catalogue.history_records.next_length(length_before, actions["history_records"], available)
    else:
        length = min(manual.history_length, available)

    def action(pattern: SentencePattern) -> int | None:
        return actions[pattern] if pattern in actions else getattr(manual, pattern)

    return PromptSpec(
        role_playing=action("role_playing"),
        history_length=length,
        reasoning_guidance=action("reasoning_guidance"),
        output_format=action("output_format"),
        user_profile=actions.get("user_profile", manual.user_profile),
    )
