"""The objects a rank graph works with; the settings that name them are in `Context`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from promptailor.policies.base import PromptPolicy
from promptailor.policies.profiling import Profiling
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import InputError, SpecError
from promptailor.prompts.guidance import Guidance, load_guidance
from promptailor.prompts.llm import ChatPort, TextEncoder
from promptailor.prompts.patterns import Catalogue

DEFAULT_DOMAIN = "neutral"
"""Word list of requests that name no domain, where no data set does either."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Models, policies and catalogues, made once and shared by every run of a graph."""

    catalogue: Catalogue
    recommender: ChatPort
    policies: Mapping[str, PromptPolicy]
    """By name; `manual` must be there, because it serves what the others cannot."""
    refiner: ChatPort | None = None
    encoder: TextEncoder | None = None
    """Judges whether a refined sentence kept its meaning."""
    items: Mapping[str, Item] = field(default_factory=dict)
    """The item catalogue that bare ids are looked up in."""
    profilers: Mapping[str, ChatPort] = field(default_factory=dict)
    """By policy, who describes users and items for it; the recommender for those that are not here."""
    profiling: Profiling | None = None
    """What is written for policies that say nothing of it themselves; for training on profiles."""
    summarises: bool = True
    """Whether summaries that are missing are written; training has them written before, from a share of the budget."""
    guidance: Guidance = field(default_factory=load_guidance)
    """What profilers are asked."""
    domain: str = DEFAULT_DOMAIN
    """Word list of requests that name none."""

    @cached_property
    def item_ids(self) -> tuple[str, ...]:
        """The catalogue's ids, in a fixed order that draws can rely on."""
        return tuple(sorted(self.items))

    def policy(self, name: str) -> PromptPolicy:
        """Return a policy; an unknown name is a `SpecError` that lists the loaded ones."""
        try:
            return self.policies[name]
        except KeyError:
            raise SpecError(f"policy {name!r} is not loaded; loaded: {', '.join(sorted(self.policies))}") from None

    def profiling_of(self, name: str) -> Profiling | None:
        """Return what is written before a policy chooses."""
        return self.policies[name].info.profiling or self.profiling

    def item(self, reference: Item | str, field_name: str) -> Item:
        """Return the item a request names; an unknown bare id is an `InputError` that names the field."""
        if isinstance(reference, Item):
            return reference
        try:
            return self.items[reference]
        except KeyError:
            fix = (
                "pass {item_id, title}" if self.items else "no catalogue is loaded: pass {item_id, title} or --dataset"
            )
            raise InputError(f"{field_name}: unknown item id {reference!r}; {fix}") from None
