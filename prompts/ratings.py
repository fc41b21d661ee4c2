"""Ratings: how a user will rate one item, asked of a model in the same four patterns as a ranking. Pure.

RPP (section 3.2) names rating prediction as the second task that its patterns serve. The ratings of the history are
shown, each before its title; the one asked for is in no request, so it can reach no prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from pydantic import Field

from promptailor.prompts.assemble import (
    Prompt,
    choose_sentences,
    clean_title,
    digest_of,
    fence,
    most_recent,
    show_profile,
)
from promptailor.prompts.domain import Item, ItemId, Model, UserProfile
from promptailor.prompts.parse import MAX_ANSWER_LENGTH
from promptailor.prompts.patterns import Catalogue, PromptSpec

LOWEST, HIGHEST = 1, 5
"""The scale; its ends also stand in the catalogue's texts."""
RATING_LABELS = tuple(str(rating) for rating in range(LOWEST, HIGHEST + 1))
MIDDLE = (LOWEST + HIGHEST) / 2
"""What an answer that nobody can read counts as, for every method alike: it must not earn what a baseline knows."""

_NUMBER = r"\d{1,3}(?:[.,]\d{1,4})?"
_CHANCE = r"(?:1(?:\.0+)?|0(?:\.\d+)?)"
_DISTRIBUTION = re.compile(r"\s*" + r"\s*,\s*".join(rf"{label}:\s*({_CHANCE})" for label in RATING_LABELS) + r"\s*")
# Runs of blanks are one blank before these look: two of them side by side would each try every length of a long run.
_SCALED = re.compile(rf"(?<![\d.,/])({_NUMBER}) ?(?:/|out of) ?({_NUMBER})(?![\d/])", re.IGNORECASE)
_LONE = re.compile(
    rf"^ ?[*_#>\"'`(\[-]* ?({_NUMBER})(?: ?(?:stars?|★+))?[*_\"'`)\].!]* ?$", re.IGNORECASE | re.MULTILINE
)
_RANGE = re.compile(rf"(?<![\d.,])(?:from )?{_NUMBER} ?(?:to|-|–|—) ?{_NUMBER}(?!\d)", re.IGNORECASE)
_ANY = re.compile(rf"(?<![\w.,/-])({_NUMBER})(?![\w/])")


class RatedItem(Model):
    """An item of a history, and the rating its user gave it."""

    item: Item
    rating: float = Field(ge=LOWEST, le=HIGHEST)


class RatingRequest(Model):
    """One user's request to predict a rating; it does not hold the rating."""

    user_id: ItemId = Field(min_length=1)
    history: tuple[RatedItem, ...]
    """Oldest first; empty for a cold-start user."""
    item: Item
    """The item to rate."""
    domain: str
    """Name of a word list in `prompts/catalogue/domains.yaml`."""
    user_profile: UserProfile | None = None


def assemble_rating(request: RatingRequest, spec: PromptSpec, catalogue: Catalogue) -> Prompt:
    """Write the prompt of one request; `catalogue` is one for ratings (`load_catalogue(task="rating")`)."""
    sentences = choose_sentences(request.domain, spec, catalogue, {})
    recent = most_recent(request.history, spec)
    words = catalogue.words(request.domain)
    parts: list[str] = []
    if profile := show_profile(request.user_profile, request.domain, spec, catalogue):
        parts.append(profile)
    if recent:
        lines = [f"{rated.rating:g}. {clean_title(rated.item.title)}" for rated in recent]
        parts.append(fence(catalogue.history_records.text.format_map(words), "history", lines))
    heading = catalogue.candidates.text.format_map(words)
    parts.append(fence(heading, "item", [f"- {clean_title(request.item.title)}"]))
    parts.extend(sentences[name] for name in ("reasoning_guidance", "output_format") if name in sentences)
    system, user = sentences.get("role_playing", ""), "\n".join(parts)
    return Prompt(
        system=system,
        user=user,
        spec=spec,
        sentences=sentences,
        history_length=len(recent),
        digest=digest_of(system, user),
    )


def write_distribution(log_probs: Mapping[str, float]) -> str:
    """Write what a model gave each rating as its answer's text, so that it is kept and read like any answer.

    Args:
        log_probs: natural logarithms by label; a label that is missing had no chance. They need not add up to one.
    """
    known = {label: log_probs[label] for label in RATING_LABELS if label in log_probs}
    top = max(known.values())
    weights = [math.exp(known[label] - top) if label in known else 0.0 for label in RATING_LABELS]
    chances = [weight / sum(weights) for weight in weights]
    return ", ".join(f"{label}: {chance:.4f}" for label, chance in zip(RATING_LABELS, chances, strict=True))


def parse_rating(text: str) -> float | None:
    """Read a rating out of a model's answer; None where there is none on the scale.

    Total: any text is read, by one rule for every method. In this order: what `write_distribution` wrote (the expected
    rating); the first line that is a number and nothing else; the last number "out of 5"; the last number in the
    prose. Thinking in `<think>` tags counts only where nothing follows it. A number that is not on the scale, or is
    out of another one, is passed over.
    """
    if chances := _DISTRIBUTION.fullmatch(text):
        return _expectation([float(chance) for chance in chances.groups()])
    for part in dict.fromkeys((text.rpartition("</think>")[2], text)):
        if (rating := _read(part[-MAX_ANSWER_LENGTH:])) is not None:
            return rating
    return None


def _read(text: str) -> float | None:
    text = re.sub(r"[^\S\n]+", " ", text)
    if lone := _on_scale(_LONE.findall(text)):
        return lone[0]
    scaled = [number for number, of in _SCALED.findall(text) if _value(of) == HIGHEST]
    if found := _on_scale(scaled):
        return found[-1]
    prose = _RANGE.sub(" ", _SCALED.sub(" ", text))
    found = _on_scale(_ANY.findall(prose))
    return found[-1] if found else None


def _on_scale(numbers: Sequence[str]) -> list[float]:
    return [value for number in numbers if LOWEST <= (value := _value(number)) <= HIGHEST]


def _value(number: str) -> float:
    return float(number.replace(",", "."))


def _expectation(chances: Sequence[float]) -> float | None:
    total = sum(chances)
    if not total:
        return None
    ratings = range(LOWEST, HIGHEST + 1)
    return sum(rating * chance for rating, chance in zip(ratings, chances, strict=True)) / total
