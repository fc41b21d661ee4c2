"""Sentences as phrases, and the edits that GRIPS makes of them (Prasad et al., 2023). Pure; sentences are templates.

A placeholder such as `{items}` is one word, and phrases are cut between words, so that no edit can damage one. A phrase
may be deleted with the placeholder in it, as in the paper, but a sentence never becomes empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

from promptailor.prompts.patterns import SentencePattern

Phrases = tuple[str, ...]
"""Never empty; joined by spaces they are the sentence."""


def split_phrases(text: str) -> Phrases:
    """Cut a sentence behind punctuation and before the words that open a phrase, as `catalogue/phrases.yaml` says."""
    closers, openers = _rules()
    phrases: list[list[str]] = []
    for word in text.split():
        if phrases and (
            phrases[-1][-1].endswith(closers) or (word.casefold() in openers and not _is_opener(phrases[-1]))
        ):
            phrases.append([word])
        elif phrases:
            phrases[-1].append(word)
        else:
            phrases.append([word])
    return tuple(" ".join(phrase) for phrase in phrases)


def join_phrases(phrases: Phrases) -> str:
    """Return the sentence; nothing that an edit leaves behind, such as a comma at the end, is repaired."""
    return " ".join(phrases)


def refill(text: str, template: str, words: Mapping[str, str]) -> str:
    """Turn a rewrite of a filled template into a template again.

    Args:
        text: the rewrite, domain words in it.
        template: the sentence that was filled and rewritten; only its own placeholders come back.
        words: what it was filled with (`Catalogue.words`).
    """
    own = {name: words[name] for name in re.findall(r"(?<!\{)\{(\w+)\}", template)}
    names = {word.casefold(): name for name, word in own.items()}
    escaped = text.replace("{", "{{").replace("}", "}}")
    if not names:
        return escaped
    longest_first = "|".join(re.escape(word) for word in sorted(names, key=len, reverse=True))
    return re.sub(
        rf"\b(?:{longest_first})\b", lambda found: f"{{{names[found[0].casefold()]}}}", escaped, flags=re.IGNORECASE
    )


@dataclass(frozen=True, slots=True)
class Draft:
    """The sentences of a prompt while they are edited, and the phrases that were deleted from them."""

    sentences: Mapping[SentencePattern, Phrases]
    deleted: tuple[tuple[SentencePattern, str], ...] = ()

    @classmethod
    def of(cls, templates: Mapping[SentencePattern, str]) -> Draft:
        """Cut sentences into phrases."""
        return cls({pattern: split_phrases(text) for pattern, text in templates.items()})

    @property
    def texts(self) -> dict[SentencePattern, str]:
        """The sentences, whole."""
        return {pattern: join_phrases(phrases) for pattern, phrases in self.sentences.items()}

    def delete(self, pattern: SentencePattern, place: int) -> Draft:
        """Take out a phrase of a sentence that has others."""
        phrases = self.sentences[pattern]
        assert len(phrases) > 1, "a sentence keeps one phrase at least"
        left = phrases[:place] + phrases[place + 1 :]
        return replace(self._with(pattern, left), deleted=(*self.deleted, (pattern, phrases[place])))

    def swap(self, pattern: SentencePattern, first: int, second: int) -> Draft:
        """Exchange two phrases of a sentence."""
        phrases = list(self.sentences[pattern])
        phrases[first], phrases[second] = phrases[second], phrases[first]
        return self._with(pattern, tuple(phrases))

    def add(self, number: int, place: int) -> Draft:
        """Put a deleted phrase back into its sentence, before the phrase at `place` or at the end."""
        pattern, phrase = self.deleted[number]
        phrases = self.sentences[pattern]
        left = self.deleted[:number] + self.deleted[number + 1 :]
        return replace(self._with(pattern, (*phrases[:place], phrase, *phrases[place:])), deleted=left)

    def rewrite(self, pattern: SentencePattern, text: str) -> Draft:
        """Put another sentence in the place of one."""
        return self._with(pattern, split_phrases(text))

    def _with(self, pattern: SentencePattern, phrases: Phrases) -> Draft:
        return replace(self, sentences={**self.sentences, pattern: phrases})


def _is_opener(phrase: list[str]) -> bool:
    """Whether a phrase is so far an opening word alone: `according to` opens one phrase, not two."""
    return len(phrase) == 1 and phrase[0].casefold() in _rules()[1]


@cache
def _rules() -> tuple[tuple[str, ...], frozenset[str]]:
    text = resources.files("promptailor.prompts.catalogue").joinpath("phrases.yaml").read_text("utf-8")
    raw: dict[str, Any] = yaml.safe_load(text)
    return tuple(raw["closers"]), frozenset(raw["openers"])
