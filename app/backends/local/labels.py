"""The candidates' labels as a tokenizer writes them: numbers of one token each, or of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from promptailor.prompts.errors import InputError

LABELS = tuple(str(n) for n in range(1, 51))
"""Candidates a prompt can number; more are ranked in windows."""
SEPARATOR = "\n"
"""Between the labels of a ranking."""

Path = tuple[int, ...]
"""Tokens one after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTokens:
    """How a tokenizer writes labels as the beginning of an answer, and behind one another."""

    n_merged: int
    """Tokens at a prompt's end that the tokenizer writes as one with what follows; they are left out."""
    lead: Path
    """Tokens that every answer begins with: what was left out, or the blank some tokenizers put before a word."""
    first: Mapping[str, Path]
    """Each label behind the lead, in order."""
    later: Mapping[str, Path]
    """Each label, and the separator before it, behind another label."""

    @classmethod
    def of(cls, encode: Callable[[str], list[int]], prompt: str, unknown: int | None) -> LabelTokens:
        """Find the tokens.

        Args:
            encode: turns text into tokens.
            prompt: any rendered prompt; only its end, which all prompts share, matters.
            unknown: the token that stands for what the tokenizer cannot write.

        Raises:
            InputError: the tokenizer cannot write numbers.
        """
        bare = encode(prompt)
        labelled = {label: encode(prompt + label) for label in LABELS}
        lead = _common_start(*labelled.values())
        kept = len(_common_start(bare, lead))
        first = _distinct({label: tuple(tokens[len(lead) :]) for label, tokens in labelled.items()}, unknown)
        if not first:
            raise InputError("the tokenizer cannot write the numbers of candidates; take another model")
        other = encode(prompt + LABELS[0])
        later = {}
        for label in first:
            whole = encode(prompt + LABELS[0] + SEPARATOR + label)
            joined = whole[: len(other)] == other
            later[label] = tuple(whole[len(other) :] if joined else encode(SEPARATOR + label))
        return cls(n_merged=len(bare) - kept, lead=tuple(lead[kept:]), first=first, later=later)

    def open(self, prompt: Sequence[int]) -> list[int]:
        """Return the tokens behind which the first label stands."""
        return [*prompt[: len(prompt) - self.n_merged], *self.lead]

    def check(self, labels: Sequence[str]) -> None:
        """Raise an `InputError` for a label that is not one of the model's numbers, or that is given twice."""
        if unknown := sorted(set(labels) - self.first.keys()):
            raise InputError(f"label {unknown[0]!r}: the model ranks candidates numbered 1 to {len(self.first)}")
        if len(set(labels)) < len(labels):
            raise InputError(f"labels {', '.join(labels)}: give each label once")

    def longest(self, labels: Sequence[str]) -> int:
        """Return the most tokens that a ranking of the labels can take, its end included."""
        return len(self.lead) + sum(max(len(self.first[label]), len(self.later[label])) for label in labels) + 1


def _common_start(*texts: list[int]) -> list[int]:
    """Return the tokens that all texts begin with."""
    return [tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*texts, strict=False))]


def _distinct(paths: Mapping[str, Path], unknown: int | None) -> dict[str, Path]:
    """Return the paths up to the first that the tokenizer cannot write, or not differently from one before it."""
    seen: set[Path] = set()

    def is_new(label: str) -> bool:
        path = paths[label]
        new = bool(path) and unknown not in path and path not in seen
        seen.add(path)
        return new

    return {label: paths[label] for label in takewhile(is_new, paths)}
