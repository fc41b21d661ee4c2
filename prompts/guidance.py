"""AGP's texts and guards: what the critic, the generaliser and the rewriter are asked, and what of an answer is kept.

Pure. The texts are data (`catalogue/agp.yaml`). A rewritten instruction is shared by all users, so nothing of the batch
that it was written for may stay in it: no title, no fence, nothing of our own questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import ValidationError, model_validator

from promptailor.prompts.assemble import clean_text, clean_title, fence, show_item
from promptailor.prompts.domain import Item, Model
from promptailor.prompts.errors import CatalogueError
from promptailor.prompts.llm import Message
from promptailor.prompts.patterns import DOMAIN_WORDS, SentencePattern, check_placeholders, check_sentence
from promptailor.prompts.phrases import refill
from promptailor.prompts.refine import has_unsafe_characters, word_runs
from promptailor.prompts.titles import fold, words_of

Subject = Literal["profile", "rerank"]
"""Which instruction is improved: the one that profiles are written by (AGP), or the sentence that ranks."""
Drop = Literal[
    "no_markers",
    "empty",
    "unsafe_characters",
    "leaked_instruction",
    "leaked_title",
    "changed_placeholders",
    "too_long",
    "unchanged",
]

MAX_INSTRUCTION_LENGTH = 1_000
MAX_FEEDBACK_LENGTH = 1_000
MAX_GROWTH = 3.0
"""Longest rewrite, as a multiple of the instruction's length; `ALWAYS_ALLOWED_LENGTH` is allowed in any case."""
ALWAYS_ALLOWED_LENGTH = 400
LONG_TITLE = 2
"""Words from which on a title in an instruction is no accident; a title of one word may be a word."""

_NOTHING = re.compile(r"\W*(?:none|nothing|no change)\W*", re.IGNORECASE)
_BRACES = re.compile(r"[{}]")


class CriticTexts(Model):
    """What the critic is asked about one user's ranking."""

    profile: str
    rerank: str
    instruction: str
    written: str
    nothing_written: str
    ranked: str
    chosen: str
    position: str
    no_position: str
    ask: str


class GeneraliseTexts(Model):
    """What is asked about a batch's feedback."""

    text: str
    ask: str


class RewriteTexts(Model):
    """What the rewriter is asked."""

    profile: str
    rerank: str
    errors: str
    strength: str
    advice: str
    ask: str


class Guidance(Model):
    """All texts of AGP, checked."""

    schema_version: Literal[1]
    summarise: str
    kinds: str
    profile: str
    rerank: str
    chain_of_thought: dict[SentencePattern, str]
    critic: CriticTexts
    generalise: GeneraliseTexts
    rewrite: RewriteTexts

    @model_validator(mode="after")
    def _check(self) -> Guidance:
        own: dict[str, tuple[str, ...]] = {
            "kinds": ("kinds",),
            "critic.position": ("rank", "total", "distance"),
            "rewrite.errors": ("n_failed", "n_users"),
            "rewrite.strength": ("mean_rank", "total"),
            "rewrite.ask": ("max_length",),
        }
        for name, text in _texts(self):
            check_placeholders(name, text, (*DOMAIN_WORDS, *own.get(name, ())), required=own.get(name, ()))
        for pattern, text in self.chain_of_thought.items():
            check_sentence(f"chain_of_thought.{pattern}", text)
        return self

    def first(self, subject: Subject) -> str:
        """Return the instruction that training starts from."""
        return self.profile if subject == "profile" else self.rerank


def _texts(guidance: Guidance) -> Iterator[tuple[str, str]]:
    for name, value in guidance.model_dump(exclude={"schema_version", "chain_of_thought"}).items():
        if isinstance(value, str):
            yield name, value
        else:
            yield from ((f"{name}.{key}", text) for key, text in value.items())


@cache
def load_guidance() -> Guidance:
    """Load the texts that ship with the package, once."""
    text = resources.files("promptailor.prompts.catalogue").joinpath("agp.yaml").read_text("utf-8")
    try:
        return Guidance.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        raise CatalogueError(f"agp.yaml: {' '.join(str(error).split())}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCase:
    """What became of one training user: what the critic is shown."""

    ranking: tuple[Item, ...]
    """Best first; the item that was chosen may be missing where candidates are retrieved."""
    chosen: Item
    history: tuple[Item, ...] = ()
    """What the profile was written from, and more; the critic is not shown it."""
    profile: str | None = None
    """As it was written; None where there was none."""

    @property
    def rank(self) -> int:
        """Rank of the chosen item from 1; one below the last where it is missing."""
        ids = [item.item_id for item in self.ranking]
        return ids.index(self.chosen.item_id) + 1 if self.chosen.item_id in ids else len(ids) + 1


def critic_messages(
    case: RankedCase,
    instruction: str,
    words: Mapping[str, str],
    guidance: Guidance,
    *,
    subject: Subject = "profile",
    position: bool = True,
    summaries: bool = False,
) -> tuple[Message, ...]:
    """Return what the critic is asked about one training user.

    Args:
        case: the user's ranking and what was really chosen, a validation interaction.
        instruction: a template of domain words.
        words: the domain's words.
        guidance: the texts.
        subject: what the instruction is for.
        position: whether it is told the rank, and how far the item has to rise (AGP's position-based feedback).
        summaries: whether items are shown with their summaries.
    """
    texts, total = guidance.critic, len(case.ranking)
    ranked = [f"{n}. {show_item(item, summaries=summaries)}" for n, item in enumerate(case.ranking, 1)]
    parts = [
        (texts.profile if subject == "profile" else texts.rerank).format_map(words),
        fence(texts.instruction, "instruction", [clean_text(instruction.format_map(words))]),
    ]
    if subject == "profile":
        parts.append(fence(texts.written, "profile", [case.profile]) if case.profile else texts.nothing_written)
    parts.append(fence(texts.ranked, "ranking", ranked))
    chosen = texts.chosen.format_map(words)
    parts.append(fence(chosen, "chosen", [f"- {show_item(case.chosen, summaries=summaries)}"]))
    where = {"rank": case.rank, "total": total, "distance": case.rank - 1}
    parts.append(texts.position.format_map(where) if position else texts.no_position)
    return _question([*parts, texts.ask.format_map(words)])


def generalise_messages(feedback: Sequence[str], words: Mapping[str, str], guidance: Guidance) -> tuple[Message, ...]:
    """Return what is asked about a batch's feedback."""
    lines = [f"- {' '.join(clean_text(text).split())}" for text in feedback]
    texts = guidance.generalise
    return _question([fence(texts.text, "advice", lines), texts.ask.format_map(words)])


def rewrite_messages(
    instruction: str,
    advice: str,
    ranks: Sequence[int],
    n_candidates: int,
    words: Mapping[str, str],
    guidance: Guidance,
    *,
    subject: Subject = "profile",
    position: bool = True,
) -> tuple[Message, ...]:
    """Return what the rewriter is asked.

    Args:
        instruction: a template of domain words.
        advice: the batch's feedback, generalised or joined.
        ranks: of the chosen items of the batch, from 1.
        n_candidates: candidates of each.
        words: the domain's words.
        guidance: the texts.
        subject: what the instruction is for.
        position: whether it is told the mean rank, the published code's strength of the update.
    """
    texts, filled = guidance.rewrite, instruction.format_map(words)
    opening = (texts.profile if subject == "profile" else texts.rerank).format_map(words)
    parts = [
        fence(opening, "instruction", [filled]),
        texts.errors.format(n_failed=sum(rank > 1 for rank in ranks), n_users=len(ranks)),
    ]
    if position:
        parts.append(texts.strength.format(mean_rank=f"{sum(ranks) / len(ranks):.1f}", total=n_candidates))
    ask = texts.ask.format_map({**words, "max_length": most_characters(filled)})
    return _question([*parts, fence(texts.advice, "advice", [clean_text(advice)]), ask])


def most_characters(instruction: str) -> int:
    """Return how long a rewrite of a filled instruction may be."""
    return min(MAX_INSTRUCTION_LENGTH, max(int(MAX_GROWTH * len(instruction)), ALWAYS_ALLOWED_LENGTH))


def marked(answer: str, mark: str) -> str | None:
    """Return what stands between the last `<mark>` and `</mark>` of an answer, behind its thinking; None without."""
    spans = re.findall(rf"<{mark}>(.*?)</{mark}>", answer.rpartition("</think>")[2], re.DOTALL | re.IGNORECASE)
    return spans[-1].strip() if spans else None


def read_feedback(answer: str) -> str | None:
    """Read advice: one cleaned line; empty where the critic wants no change, None where there are no markers."""
    text = marked(answer, "feedback")
    if text is None:
        return None
    line = " ".join(clean_text(text, MAX_FEEDBACK_LENGTH).split())
    return "" if _NOTHING.fullmatch(line) else line


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Whether a rewritten instruction may be tried."""

    text: str | None
    """A template of domain words; None where it was dropped."""
    reason: Drop | None = None


def accept_instruction(
    original: str, answer: str, *, words: Mapping[str, str], titles: Sequence[str], guidance: Guidance
) -> Rewrite:
    """Read the rewriter's answer and judge it.

    Args:
        original: the instruction it rewrites, a template of domain words.
        answer: the whole answer.
        words: the domain's words; those that the original had as placeholders become placeholders again.
        titles: of the items that the batch was shown, which must not stay in an instruction for everybody.
        guidance: what the rewriter was asked, to see whether it leaked.
    """
    found = marked(answer, "prompt")
    if found is None:
        return Rewrite(text=None, reason="no_markers")
    filled = original.format_map(words)
    text = "\n".join(" ".join(line.split()) for line in found.splitlines() if line.strip())
    if text == filled:
        return Rewrite(text=None, reason="unchanged")
    reason = next(_faults(filled, text, titles, guidance.rewrite), None)
    return Rewrite(text=None if reason else refill(text, original, words), reason=reason)


def _faults(filled: str, text: str, titles: Sequence[str], asked: RewriteTexts) -> Iterator[Drop]:
    if not text:
        yield "empty"
    if has_unsafe_characters(text.replace("\n", " "), filled):
        yield "unsafe_characters"
    if len(text) > most_characters(filled):
        yield "too_long"
    if sorted(_BRACES.findall(text)) != sorted(_BRACES.findall(filled)):
        yield "changed_placeholders"
    ours = word_runs(asked.errors) | word_runs(asked.strength) | word_runs(asked.advice) | word_runs(asked.ask)
    if word_runs(text) & (ours - word_runs(filled)):
        yield "leaked_instruction"
    if _names_title(text, titles):
        yield "leaked_title"


def _names_title(text: str, titles: Sequence[str]) -> bool:
    """Whether a text names an item by a title of several words."""
    words = words_of(fold(text))
    named = (words_of(fold(clean_title(title))) for title in titles)
    return any(
        words[at : at + len(title)] == title
        for title in named
        if len(title) >= LONG_TITLE
        for at in range(len(words) - len(title) + 1)
    )


def _question(parts: Sequence[str]) -> tuple[Message, ...]:
    return (Message(role="user", content="\n".join(parts)),)
