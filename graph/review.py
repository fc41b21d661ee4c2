"""Human in the loop: a person reads each prompt before the model does, and may put other sentences in their place.

The graph stops with a `PromptReview` (LangGraph's `interrupt`, so it needs a checkpointer) and goes on with
`Command(resume=...)`: True (or an empty string) sends the prompt as it is, `{"sentences": {"role_playing": "..."}}`
replaces sentences. What would not make a valid prompt is refused with the reason, by stopping again.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, get_args

from langgraph.types import interrupt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from promptailor.prompts.assemble import AssembledPrompt
from promptailor.prompts.patterns import SentencePattern

MAX_SENTENCE_LENGTH = 2_000
QUESTION = (
    'Send the prompt as it is (resume with nothing), or with other sentences: {"sentences": {"PATTERN": "TEXT"}}.'
)


class PromptReview(BaseModel):
    """What the reviewer sees."""

    question: str = QUESTION
    step: int
    """From 0."""
    system: str
    user: str
    sentences: dict[str, str]
    """What can be replaced, by pattern."""
    problem: str | None = None
    """Why the last answer was refused."""


class ReviewAnswer(BaseModel):
    """What the reviewer may answer."""

    model_config = ConfigDict(extra="forbid")

    sentences: dict[SentencePattern, str] = Field(default_factory=dict)


def review_prompt(prompt: AssembledPrompt, step: int) -> dict[SentencePattern, str]:
    """Ask the reviewer until the answer makes a valid prompt, and return the sentences to replace."""
    problem: str | None = None
    while True:
        shown = PromptReview(
            step=step, system=prompt.system, user=prompt.user, sentences=dict(prompt.sentences), problem=problem
        )
        answer = read_answer(interrupt(shown.model_dump(mode="json")), prompt.sentences)
        if not isinstance(answer, str):
            return answer
        problem = answer


def read_answer(answer: Any, sentences: Mapping[SentencePattern, str]) -> dict[SentencePattern, str] | str:
    """Return the sentences that an answer replaces, or say in one line what is wrong with it.

    Args:
        answer: whatever the run was resumed with.
        sentences: those of the prompt.
    """
    try:
        edits = ReviewAnswer.model_validate({} if answer in (True, "") else answer).sentences
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(get_args(SentencePattern))
        return f"{where + ': ' if where else ''}{first['msg']}; patterns are {known}"
    for pattern, text in edits.items():
        if pattern not in sentences:
            return f"sentences.{pattern}: this prompt has no such sentence; it has {', '.join(sentences)}"
        if fault := _fault(text):
            return f"sentences.{pattern}: {fault}"
    return {pattern: text.strip() for pattern, text in edits.items() if text.strip() != sentences[pattern]}


def _fault(text: str) -> str | None:
    """Say why a text cannot stand in a prompt: it has to be one line that no fence or label can be mistaken for."""
    if not text.strip():
        return "is empty; leave the pattern out to keep its sentence"
    if len(text) > MAX_SENTENCE_LENGTH:
        return f"has {len(text):,} characters; {MAX_SENTENCE_LENGTH:,} at most"
    if len(text.strip().splitlines()) > 1:
        return "has several lines; write one"
    if any(c in "<>" or unicodedata.category(c)[0] == "C" for c in text.strip()):
        return "has angle brackets or control characters, which mark where data begins and ends"
    return None
