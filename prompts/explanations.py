"""How an attribution, and the step of a prompt's evolution, are said in words: `catalogue/explanations.yaml`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml

from promptailor.prompts.domain import Model
from promptailor.prompts.patterns import PatternName

Part = PatternName | Literal["triggers", "summaries", "prompt"]
"""A part of a prompt that may be another: a pattern, trigger words, summaries of items, or everything (`prompt`)."""


class Wording(Model):
    """The templates."""

    patterns: dict[Part, str]
    none: str
    manual: str
    refined: str
    edited: str
    change: str
    moved: str
    kept: str
    unmoved: str
    ordinals: tuple[str, ...]
    later: str
    chosen: str
    became: str
    reworded: str
    probability: str
    unchanged: str

    def change_of(self, part: Part, choice: str, reference: str) -> str:
        """Say what was exchanged: `History 3 instead of 10`."""
        name = self.patterns[part]
        pattern = name[:1].upper() + name[1:]
        return " ".join(self.change.format(Pattern=pattern, choice=choice, reference=reference).split())

    def move(self, change: str, before: int, after: int) -> str:
        """Say what a change did to an item's place; places count from 1."""
        template = self.kept if before == after else self.moved
        return template.format(change=change, before=self.place(before), after=self.place(after))

    def step(self, part: Part, before: str | None, choice: str, probability: float | None) -> str:
        """Say what a step chose; `before` is the previous step's choice, None where there is none."""
        same = self.reworded if before == choice else self.became
        template = self.chosen if before is None else same
        change = template.format(pattern=self.patterns[part], before=before, choice=choice)
        return change if probability is None else self.probability.format(change=change, p=probability)

    def place(self, rank: int) -> str:
        """Return a place as a word."""
        return self.ordinals[rank - 1] if rank <= len(self.ordinals) else self.later.format(rank=rank)


@cache
def load_wording() -> Wording:
    """Load and check the templates."""
    text = resources.files("promptailor.prompts.catalogue").joinpath("explanations.yaml").read_text("utf-8")
    return Wording.model_validate(yaml.safe_load(text))
