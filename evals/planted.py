"""Planted worlds: data sets and a simulated reader of prompts whose best prompt per user is known.

They test learners, never recommenders. Users belong to latent segments that show only in what they chose, and each
segment has one best role, reasoning guidance, output format and history length. The expected NDCG@10 of a prompt is

    chance + sum over patterns of weight * fit,

fit being 1 for the segment's own sentence and 0 for any other, and falling linearly to 0 within `LENGTH_REACH`
interactions of the segment's best length. In the null world every weight is 0: nothing that a prompt says matters.
`app.backends.planted` is the simulated model that answers so.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from promptailor.evals.datasets import Dataset, DatasetSpec
from promptailor.policies.reward import ndcg
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import SpecError
from promptailor.prompts.patterns import (
    SENTENCE_PATTERNS,
    Catalogue,
    PatternName,
    PromptSpec,
    SentencePattern,
    load_catalogue,
)

WEIGHTS: Mapping[PatternName, float] = {
    "role_playing": 0.10,
    "history_records": 0.10,
    "reasoning_guidance": 0.11,
    "output_format": 0.09,
}
"""What each pattern adds to the expected NDCG@10 where it suits the segment perfectly."""

BEST_LENGTHS = (1, 2, 3, 5, 6, 7)
"""Best history length per segment before shuffling; 1 + 2T reaches all of them in T = 3 steps."""
N_SEGMENTS = len(BEST_LENGTHS)
LENGTH_REACH = 3
ITEMS_PER_SEGMENT = 40
OWN_SHARE = 0.85
"""Share of a history, its closing walk aside, that lies in the user's own segment."""
HISTORY_LENGTHS = range(12, 21)
"""Interactions before the closing walk."""
WALK = 3
"""Consecutive items of the ring that end a history: the test target, the validation target and the item before."""
CUTOFF = 10

WORLDS = ("1", "2", "3", "4", "5", "null")
"""Names after `planted:`. Learners are developed on world 1 only; the others are held out."""
PROFILE_WORLDS = ("agp", "agp-null")
"""Names of the worlds for profiles, which `evals.planted_profiles` makes."""

_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedPrompt:
    """A prompt as the planted model reads it: ids of the recognised sentences, and how much history it shows."""

    sentences: Mapping[SentencePattern, str | None]
    history_length: int


@lru_cache
def gains(n_candidates: int) -> tuple[float, ...]:
    """Return NDCG@10 of the relevant item at each place, best first."""
    ranking = [str(place) for place in range(n_candidates)]
    return tuple(ndcg(ranking, {place}, CUTOFF) for place in ranking)


def chance(n_candidates: int) -> float:
    """Return the expected NDCG@10 of a random order."""
    return sum(gains(n_candidates)) / n_candidates


class PlantedWorld:
    """One world: its items, their hidden segments and rings, and each segment's best prompt.

    Args:
        seed: names the world and fixes everything in it; "null" is the world where no prompt matters.
        catalogue: where the sentences stand; the built-in one by default.
    """

    def __init__(self, seed: int | Literal["null"], catalogue: Catalogue | None = None) -> None:
        self.seed = seed
        self.catalogue = catalogue or load_catalogue()
        self.weights: Mapping[PatternName, float] = dict.fromkeys(WEIGHTS, 0.0) if seed == "null" else WEIGHTS
        rng = random.Random(f"planted world {seed}")
        titles = _titles(N_SEGMENTS * ITEMS_PER_SEGMENT, rng)
        self.items = tuple(Item(item_id=str(n), title=title) for n, title in enumerate(titles, 1))
        order = rng.sample(self.items, len(self.items))
        self.rings = tuple(tuple(order[segment::N_SEGMENTS]) for segment in range(N_SEGMENTS))
        self._ids: dict[SentencePattern, list[str | None]] = {
            pattern: [sentence.id for sentence in self.catalogue.sentences(pattern)] for pattern in SENTENCE_PATTERNS
        }
        self.best_prompts = self._draw_best_prompts(rng)
        self._segments = {item.title: segment for segment, ring in enumerate(self.rings) for item in ring}
        self._next = {a.title: b.title for ring in self.rings for a, b in zip(ring, ring[1:] + ring[:1], strict=True)}

    def segment(self, title: str) -> int | None:
        """Return the segment of a title, None where the world has no such item."""
        return self._segments.get(title)

    def next_title(self, title: str) -> str | None:
        """Return the title that follows on the ring: what a user whose last choice was `title` chooses next."""
        return self._next.get(title)

    def expected_ndcg(self, recent: Sequence[str], candidates: Sequence[str], shown: PlantedPrompt) -> float:
        """Return the expected NDCG@10 of the planted model's answer; chance where it cannot tell the next item.

        Args:
            recent: titles of the shown history, oldest first.
            candidates: titles of the candidates, in any order.
            shown: the prompt.
        """
        level = chance(len(candidates))
        if not recent or self.next_title(recent[-1]) not in candidates:
            return level
        best = self.best_prompts[self._segments[recent[-1]]]
        level += self.weights["history_records"] * _closeness(shown.history_length, best.history_length)
        level += sum(self.weights[p] for p in SENTENCE_PATTERNS if shown.sentences[p] == best.sentences[p])
        return min(level, 1.0)

    def quality(self, request: RankRequest, spec: PromptSpec) -> float:
        """Return the noise-free reward of a prompt for a request: the expected NDCG@10 of the answer."""
        length = min(spec.history_length, len(request.history))
        recent = [item.title for item in request.history[len(request.history) - length :]]
        shown = PlantedPrompt(
            sentences={p: self._sentence_id(p, getattr(spec, p)) for p in SENTENCE_PATTERNS}, history_length=length
        )
        return self.expected_ndcg(recent, [item.title for item in request.candidates], shown)

    def best_spec(self, request: RankRequest) -> PromptSpec:
        """Return the best prompt of a request; the manual one for a history that the world does not know."""
        segment = self.segment(request.history[-1].title) if request.history else None
        if segment is None:
            return self.catalogue.manual_prompt
        best = self.best_prompts[segment]
        indices = {p: self._ids[p].index(best.sentences[p]) for p in SENTENCE_PATTERNS}
        return PromptSpec(history_length=best.history_length, **indices)

    def optimum(self, requests: Sequence[RankRequest]) -> float:
        """Return the mean noise-free reward when each request gets its own best prompt."""
        return sum(self.quality(request, self.best_spec(request)) for request in requests) / len(requests)

    def best_single(self, requests: Sequence[RankRequest]) -> tuple[float, PromptSpec]:
        """Return the best mean noise-free reward of one prompt for all requests, and that prompt.

        Patterns add up, so each is maximised by itself.
        """
        spec = self.catalogue.manual_prompt
        for pattern in SENTENCE_PATTERNS:
            choices = [spec.model_copy(update={pattern: n}) for n in range(self.catalogue.n_actions(pattern))]
            spec = max(choices, key=lambda choice: self._mean_quality(requests, choice))
        lengths = range(1, self.catalogue.history_records.max_length + 1)
        spec = max(
            (spec.model_copy(update={"history_length": length}) for length in lengths),
            key=lambda choice: self._mean_quality(requests, choice),
        )
        return self._mean_quality(requests, spec), spec

    def dataset(self, n_users: int, seed: int) -> Dataset:
        """Draw users; the items are the world's own.

        Args:
            n_users: how many; the protocol's split decides which of them train.
            seed: seed of the users, which also stands in their ids.
        """
        spec = DatasetSpec(
            name=f"planted-{self.seed}", about="A planted world: for tests of learners.", domain="neutral", time="order"
        )
        rng = random.Random(f"planted users {self.seed} {seed}")
        sequences = {f"s{seed}-u{n}": tuple(self._draw_sequence(rng)) for n in range(1, n_users + 1)}
        return Dataset(
            spec=spec,
            items={item.item_id: item for item in self.items},
            sequences=sequences,
            times={user_id: tuple(map(float, range(len(ids)))) for user_id, ids in sequences.items()},
        )

    def _mean_quality(self, requests: Sequence[RankRequest], spec: PromptSpec) -> float:
        return sum(self.quality(request, spec) for request in requests) / len(requests)

    def _sentence_id(self, pattern: SentencePattern, index: int | None) -> str | None:
        return None if index is None else self._ids[pattern][index]

    def _draw_best_prompts(self, rng: random.Random) -> tuple[PlantedPrompt, ...]:
        ids = {p: _spread(self._ids[p], rng) for p in SENTENCE_PATTERNS}
        lengths = rng.sample(BEST_LENGTHS, N_SEGMENTS)
        return tuple(
            PlantedPrompt(sentences={p: ids[p][segment] for p in SENTENCE_PATTERNS}, history_length=lengths[segment])
            for segment in range(N_SEGMENTS)
        )

    def _draw_sequence(self, rng: random.Random) -> list[str]:
        """Draw one user's item ids: a body of mostly one segment, then a walk on its ring; no item twice."""
        segment = rng.randrange(N_SEGMENTS)
        ring, start = self.rings[segment], rng.randrange(ITEMS_PER_SEGMENT)
        walk = [ring[(start + step) % ITEMS_PER_SEGMENT] for step in range(WALK)]
        walked = {item.item_id for item in walk}
        own = [item for item in ring if item.item_id not in walked]
        other = [item for n, items in enumerate(self.rings) if n != segment for item in items]
        length = rng.choice(HISTORY_LENGTHS)
        n_own = sum(rng.random() < OWN_SHARE for _ in range(length))
        body = rng.sample(own, n_own) + rng.sample(other, length - n_own)
        rng.shuffle(body)
        return [item.item_id for item in body + walk]


def _closeness(length: int, best: int) -> float:
    return max(0.0, 1.0 - abs(length - best) / LENGTH_REACH)


def _spread(ids: Sequence[str | None], rng: random.Random) -> list[str | None]:
    """Deal ids to the segments as evenly as they go: none suits many segments, and which is left out is random."""
    repeats = -(-N_SEGMENTS // len(ids))
    return rng.sample(rng.sample(ids, len(ids)) * repeats, len(ids) * repeats)[:N_SEGMENTS]


def _titles(n: int, rng: random.Random) -> list[str]:
    """Make up n distinct two-word titles that say nothing of segments."""
    titles: dict[str, None] = {}
    while len(titles) < n:
        words = [syllables(rng, rng.choice((2, 3))).capitalize() for _ in range(2)]
        titles[" ".join(words)] = None
    return list(titles)


def syllables(rng: random.Random, n: int) -> str:
    """Make up a word of n syllables."""
    return "".join(rng.choices(_SYLLABLES, k=n))


def planted_world(name: str, catalogue: Catalogue | None = None) -> PlantedWorld:
    """Return the world that `planted:NAME` names; an unknown name is a `SpecError` that lists the known ones."""
    if name not in WORLDS:
        known = ", ".join(f"planted:{world}" for world in (*WORLDS, *PROFILE_WORLDS))
        raise SpecError(f"planted:{name}: no such world; known: {known}")
    return PlantedWorld("null" if name == "null" else int(name), catalogue)
