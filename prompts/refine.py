"""Refinement (RPP+): another model rewrites a chosen sentence, and guards decide whether the rewrite may be used.

Published prompt optimisers let their own scaffolding leak into the prompts they write; here a rewrite that is not one
clean sentence with the same meaning is dropped, and the reason is counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from promptailor.prompts.llm import Message, TextEncoder
from promptailor.prompts.patterns import Catalogue

DropReason = Literal[
    "empty",
    "multi_line",
    "unsafe_characters",
    "leaked_instruction",
    "changed_placeholders",
    "lost_item_noun",
    "too_short",
    "too_long",
    "changed_meaning",
]

MIN_COSINE = 0.65
"""Least cosine between the embeddings of a sentence and its rewrite.

Under all-MiniLM-L6-v2, of 153 hand-written rewrites of the catalogue's sentences (three domains) all lie above it (the
lowest at .70, the median at .93), and 3 % of unrelated sentences do. It cannot tell two instructions about the same
thing apart: half of the pairs of different reasoning sentences lie above it as well, and so does the reversed order.
"""
MAX_GROWTH = 2.0
"""Longest rewrite, as a multiple of the sentence's length."""
ALWAYS_ALLOWED_LENGTH = 120
"""Characters every rewrite may have, however short the sentence was."""
MIN_SHRINKAGE = 0.25
"""Shortest rewrite, as a multiple of the sentence's length."""
LEAKED_RUN = 4
"""Words in a row that a rewrite cannot share with the refiner's instruction by chance."""

_LEAD_IN = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|yes)\b|here(?:'s|’s| is)\b|"
    r"(?:(?:the|my|a)\s+)?(?:refined|rewritten|revised|improved|better)\s+(?:sentence|version|prompt|instruction)\b)"
    r"[^:\n]{0,80}:\s*",
    re.IGNORECASE,
)
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "*": "*", "`": "`"}
_BRACE = re.compile(r"\{\w*\}|[{}]")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineVerdict:
    """Whether a rewrite may be used."""

    text: str | None
    """The sentence to use, the original where the rewrite changes nothing; None where it was dropped."""
    reason: DropReason | None = None
    """Why it was dropped."""


def refine_messages(sentence: str, catalogue: Catalogue) -> tuple[Message, ...]:
    """Return what the refiner is asked about one sentence, domain words already filled in."""
    return (Message(role="user", content=catalogue.refine.text.format_map({"sentence": sentence})),)


def accept_refinement(
    original: str,
    rewritten: str,
    *,
    words: Mapping[str, str],
    encoder: TextEncoder | None,
    instruction: str = "",
) -> RefineVerdict:
    """Clean a refiner's answer and judge it.

    Args:
        original: the sentence that was to be refined.
        rewritten: the refiner's whole answer.
        words: the domain's words (`Catalogue.words`); a sentence that names the domain's items has to go on doing so.
        encoder: judges the meaning; None leaves that guard out.
        instruction: what the refiner was asked (`catalogue.refine.text`), to see whether it leaked.
    """
    text = clean_answer(rewritten, original)
    if text == original:
        return RefineVerdict(text=original)
    reason = next(_faults(original, text, words, instruction), None)
    if reason is None and encoder is not None and _cosine(original, text, encoder) < MIN_COSINE:
        reason = "changed_meaning"
    return RefineVerdict(text=None if reason else text, reason=reason)


def clean_answer(answer: str, original: str = "") -> str:
    """Strip thinking, an introduction that the original does not have itself, and marks around the sentence."""
    text = answer.rpartition("</think>")[2].strip()
    if (lead_in := _LEAD_IN.match(text)) and not _LEAD_IN.match(original):
        text = text[lead_in.end() :]
    while len(text) > 1 and _PAIRS.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def _faults(original: str, text: str, words: Mapping[str, str], instruction: str) -> Iterator[DropReason]:
    if not text:
        yield "empty"
    if len(text.splitlines()) > 1:
        yield "multi_line"
    if has_unsafe_characters(text, original):
        yield "unsafe_characters"
    if word_runs(text) & (word_runs(instruction) - word_runs(original)):
        yield "leaked_instruction"
    if sorted(_BRACE.findall(text)) != sorted(_BRACE.findall(original)):
        yield "changed_placeholders"
    nouns = {words["item"].casefold(), words["items"].casefold()}
    if nouns & set(_words(original)) and not nouns & set(_words(text)):
        yield "lost_item_noun"
    if len(text) < MIN_SHRINKAGE * len(original):
        yield "too_short"
    if len(text) > max(MAX_GROWTH * len(original), ALWAYS_ALLOWED_LENGTH):
        yield "too_long"


def has_unsafe_characters(text: str, original: str = "") -> bool:
    """Whether a text has control characters, or angle brackets, the fences', that the original does not have."""
    return any(unicodedata.category(c)[0] == "C" or (c in "<>" and c not in original) for c in text)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def word_runs(text: str) -> set[tuple[str, ...]]:
    """Return every `LEAKED_RUN` words in a row, case folded, placeholders left out."""
    words = _words(_BRACE.sub(" ", text))
    return {tuple(words[start : start + LEAKED_RUN]) for start in range(len(words) - LEAKED_RUN + 1)}


def _cosine(first: str, second: str, encoder: TextEncoder) -> float:
    a, b = encoder.encode([first, second])
    return sum(x * y for x, y in zip(a, b, strict=True))
