"""New sentences for the catalogue: what a critic is asked, how its answer is read, and which sentences may be tried.

AGP's idea, feedback from the place that the relevant item got to the place it should have, is put to RPP's sentences: a
critic that sees where a prompt ranked what people chose proposes other sentences for one of its patterns. Everything it
writes is a template, so that the sentence serves every domain. What it writes is text from outside: guards in the
manner of RPP+'s refinement drop what is not one clean sentence, and the reasons are counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field

from promptailor.prompts.assemble import clean_title, fence
from promptailor.prompts.domain import Model
from promptailor.prompts.llm import Message
from promptailor.prompts.patterns import (
    DOMAIN_WORDS,
    Catalogue,
    PromptSpec,
    Sentence,
    SentencePattern,
    check_sentence,
)
from promptailor.prompts.phrases import refill
from promptailor.prompts.refine import (
    ALWAYS_ALLOWED_LENGTH,
    MAX_GROWTH,
    MIN_SHRINKAGE,
    clean_answer,
    has_unsafe_characters,
    word_runs,
)
from promptailor.prompts.titles import fold, words_of

ProposalFault = Literal[
    "unreadable",
    "empty",
    "multi_line",
    "unsafe_characters",
    "unknown_placeholder",
    "lost_placeholder",
    "leaked_instruction",
    "names_title",
    "names_label",
    "too_short",
    "too_long",
    "known_already",
]
FAULTS: tuple[ProposalFault, ...] = get_args(ProposalFault)

MAX_ANSWER = 8_000
"""Characters of a critic's answer that are read."""
MAX_FEEDBACK = 500
_RECENT = 3
"""Titles of a history that a critic sees."""
_FEEDBACK = re.compile(r"^[^\w\n]*feedback[^\w\n:]*:[^\w\n]*(.+)$", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(
    r"^[^\w\n]*(?:\d+[^\w\n]+)?sentence(?: *\d+)?[^\w\n:]*:[ *\t]*(.+)$", re.IGNORECASE | re.MULTILINE
)
_PLACEHOLDER = re.compile(r"(?<!\{)\{(\w+)\}")
_YEAR = re.compile(r"\s*\([^()]*\)$")


class Proposal(Model):
    """A sentence that might be added to the catalogue."""

    id: str
    pattern: SentencePattern
    text: Annotated[str, Field(min_length=1)]
    """A template."""
    source: str
    """Who wrote it: a model, or a file."""
    feedback: str = ""
    """Why, in the words of whoever wrote it."""
    estimate: float | None = None
    """First-order estimate of how far the listwise loss falls with it; None where nobody looked into a model."""
    admit: bool | None = None
    """A person's decision, where one was made."""

    @property
    def sentence(self) -> Sentence:
        """It, as the catalogue holds it."""
        return Sentence(id=self.id, text=self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a prompt did for one training user."""

    place: int
    """Of the relevant item, from 1."""
    n_candidates: int
    title: str
    """Of the relevant item."""
    first: str
    """Title that was ranked first."""
    recent: tuple[str, ...]
    """Titles of the history, oldest first."""

    @property
    def titles(self) -> tuple[str, ...]:
        """Every title that a critic sees of it."""
        return (self.title, self.first, *self.recent[-_RECENT:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """A critic's answer as it was read."""

    feedback: str
    sentences: tuple[str, ...]
    """As written."""


def critique_messages(
    pattern: SentencePattern,
    spec: PromptSpec,
    outcomes: Sequence[Outcome],
    catalogue: Catalogue,
    *,
    domain: str,
    n_new: int,
) -> tuple[Message, ...]:
    """Return what a critic is asked for new sentences of one pattern.

    Args:
        pattern: which one.
        spec: the prompt that was used; its sentences are shown as templates.
        outcomes: what it did, for a batch of training users.
        catalogue: where the sentences stand.
        domain: what the items are called.
        n_new: how many sentences are asked for.
    """
    texts, words = _texts(), catalogue.words(domain)
    lines = [
        texts["outcome"].format(
            place=outcome.place,
            n=outcome.n_candidates,
            title=clean_title(outcome.title),
            first=clean_title(outcome.first),
            recent="; ".join(map(clean_title, outcome.recent[-_RECENT:])),
        )
        for outcome in outcomes
    ]
    present = {
        name: _text_of(catalogue, name, getattr(spec, name))
        for name in ("role_playing", "reasoning_guidance", "output_format")
    }
    request = texts["request"].format(
        **words,
        **present,
        n_users=len(outcomes),
        outcomes=fence("", "outcomes", lines).lstrip("\n"),
        n_first=sum(outcome.place == 1 for outcome in outcomes),
        mean_place=f"{sum(outcome.place for outcome in outcomes) / len(outcomes):.1f}",
        pattern=texts["patterns"][pattern],
        sentences="\n".join(texts["sentence"].format(text=s.text) for s in catalogue.sentences(pattern)),
        n_new=n_new,
        placeholders=", ".join(f"{{{name}}}" for name in DOMAIN_WORDS),
    )
    return (
        Message(role="system", content=texts["system"].format_map(words)),
        Message(role="user", content=request),
    )


def read_critique(answer: str, *, n_new: int) -> Critique:
    """Read a critic's answer, whatever it is; one without marked sentences has none."""
    text = answer.rpartition("</think>")[2][:MAX_ANSWER]
    feedback = _FEEDBACK.search(text)
    return Critique(
        feedback=" ".join(feedback[1].split())[:MAX_FEEDBACK] if feedback else "",
        sentences=tuple(found.strip() for found in _SENTENCE.findall(text)[:n_new]),
    )


def pattern_asked_for(request: str) -> SentencePattern | None:
    """Return the pattern that a critic's question is about; None where it is another question."""
    texts = _texts()
    opening = texts["request"].partition("{pattern}")[0].rpartition("\n")[2]
    found = re.search(rf"^{re.escape(opening)}(.+?) that exist already:$", request, re.MULTILINE)
    names: dict[str, SentencePattern] = {name: pattern for pattern, name in texts["patterns"].items()}
    return names.get(found[1]) if found else None


def judge_proposal(
    answer: str,
    pattern: SentencePattern,
    catalogue: Catalogue,
    *,
    domain: str,
    titles: Iterable[str] = (),
    known: Collection[str] = (),
    instruction: str = "",
) -> str | ProposalFault:
    """Return a sentence as a template that may be tried, or what is wrong with it (one of `FAULTS`).

    Args:
        answer: the sentence, from outside; domain words in it become placeholders.
        pattern: which pattern it is for.
        catalogue: the sentences that exist; new ones are held against their length and placeholders.
        domain: whose words are placeholders.
        titles: of the items that its author saw; no sentence may name one.
        known: templates that were proposed before.
        instruction: what its author was asked, to see whether it leaked.
    """
    text = clean_answer(answer[:MAX_ANSWER])
    present = [sentence.text for sentence in catalogue.sentences(pattern)]
    words = catalogue.words(domain)
    try:
        check_sentence(pattern, text)
        text = refill(text.format_map(words), " ".join(f"{{{name}}}" for name in DOMAIN_WORDS), words)
    except ValueError:
        return "unknown_placeholder"
    return next(_faults(text, present, words, [*titles], known, instruction), text)


def proposal_id(text: str) -> str:
    """Return the id of a proposed sentence: a function of its text."""
    return f"new-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _faults(
    text: str,
    present: Sequence[str],
    words: Mapping[str, str],
    titles: Sequence[str],
    known: Collection[str],
    instruction: str,
) -> Iterator[ProposalFault]:
    if not text:
        yield "empty"
    if len(text.splitlines()) > 1:
        yield "multi_line"
    if has_unsafe_characters(text, " ".join(present)):
        yield "unsafe_characters"
    own, items = set(_PLACEHOLDER.findall(text)), {"item", "items"}
    if all(items & set(_PLACEHOLDER.findall(sentence)) for sentence in present) and not items & own:
        yield "lost_placeholder"
    shown = text.format_map(words)
    if word_runs(shown) & (word_runs(instruction) - set().union(*(word_runs(s.format_map(words)) for s in present))):
        yield "leaked_instruction"
    if any(_names(shown, title) for title in titles):
        yield "names_title"
    if any(c.isdigit() for c in text):
        yield "names_label"
    lengths = [len(sentence) for sentence in present]
    if len(text) < MIN_SHRINKAGE * min(lengths):
        yield "too_short"
    if len(text) > max(MAX_GROWTH * max(lengths), ALWAYS_ALLOWED_LENGTH):
        yield "too_long"
    if _same(shown) in {_same(other.format_map(words)) for other in (*present, *known)}:
        yield "known_already"  # filled: what reads the same is the same, wherever its placeholders are


def _names(text: str, title: str) -> bool:
    """Whether a text names a title; one of a single word counts where it is capitalised inside the sentence."""
    bare = _YEAR.sub("", title).strip()
    wanted = words_of(fold(bare))
    if len(wanted) > 1:
        there = words_of(fold(text))
        return any(there[start : start + len(wanted)] == wanted for start in range(len(there)))
    return bool(bare) and re.search(rf"(?<=\w\W){re.escape(bare)}\b", text) is not None and not bare.islower()


def _same(text: str) -> str:
    return " ".join(words_of(fold(text)))


def _text_of(catalogue: Catalogue, pattern: SentencePattern, index: int | None) -> str:
    return "" if index is None else catalogue.sentences(pattern)[index].text


@cache
def _texts() -> dict[str, Any]:
    text = resources.files("promptailor.prompts.catalogue").joinpath("proposals.yaml").read_text("utf-8")
    raw: dict[str, Any] = yaml.safe_load(text)
    return raw
