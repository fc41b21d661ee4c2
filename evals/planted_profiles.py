"""A planted world for profiles: what the instruction for writing them must ask for is known.

Users and items are those of a planted world. Every segment of users has a value in each of a few aspects of taste, and
the reader of prompts ranks the better, the more of the aspects that matter a user's profile names with the right value:

    chance + sum over the aspects that matter of `ASPECT_WEIGHT`.

A profile says what its instruction asks for and nothing else, so the best instruction names the aspects that matter. In
the null world none does. `app.backends.planted_profiles` simulates profiler, ranker and critic.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence

from promptailor.evals.planted import N_SEGMENTS, PlantedWorld, chance, planted_world, syllables
from promptailor.prompts.patterns import Catalogue

ASPECTS = ("mood", "era", "pace", "setting", "style", "theme")
N_NEEDED = 3
"""Aspects that matter."""
ASPECT_WEIGHT = 0.15
"""What each adds to the expected NDCG@10."""

_SEEDS = {"agp": 101, "agp-null": 102}


class ProfileWorld(PlantedWorld):
    """One world: which aspects matter, and what each segment of users likes in each.

    Args:
        name: of `PROFILE_WORLDS`.
        catalogue: where the sentences stand, none of which matters here.
    """

    def __init__(self, name: str, catalogue: Catalogue | None = None) -> None:
        super().__init__(_SEEDS[name], catalogue)
        self.weights = dict.fromkeys(self.weights, 0.0)
        rng = random.Random(f"profile world {name}")
        self.needed: tuple[str, ...] = () if name == "agp-null" else tuple(rng.sample(ASPECTS, N_NEEDED))
        self._values = {aspect: [syllables(rng, 3) for _ in range(N_SEGMENTS)] for aspect in ASPECTS}

    def aspects_in(self, text: str) -> tuple[str, ...]:
        """Return the aspects that a text names."""
        words = set(re.findall(r"[a-z]+", text.lower()))
        return tuple(aspect for aspect in ASPECTS if aspect in words)

    def value(self, aspect: str, segment: int) -> str:
        """Return what a segment of users likes in an aspect."""
        return self._values[aspect][segment]

    def level(self, recent: Sequence[str], candidates: Sequence[str], profile: Collection[str]) -> float:
        """Return the expected NDCG@10 of the ranker's answer; chance where it cannot tell the next item.

        Args:
            recent: titles of the shown history, oldest first.
            candidates: titles of the candidates, in any order.
            profile: lines of the shown profile, such as `mood: bakudo`.
        """
        level = chance(len(candidates))
        if not recent or self.next_title(recent[-1]) not in candidates:
            return level
        segment = self._segments[recent[-1]]
        right = sum(f"{aspect}: {self.value(aspect, segment)}" in profile for aspect in self.needed)
        return min(level + ASPECT_WEIGHT * right, 1.0)


def any_world(name: str, catalogue: Catalogue | None = None) -> PlantedWorld:
    """Return the world that `planted:NAME` names, of either kind; an unknown name is a `SpecError` that lists them."""
    return ProfileWorld(name, catalogue) if name in _SEEDS else planted_world(name, catalogue)
