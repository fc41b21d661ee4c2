"""The simulated LLM of the planted worlds: it reads the prompt's text, and nothing else, as a real model would.

The most recent title shown tells it the user's segment and next item; how well it ranks that item depends on which
sentences it recognises and how much history it sees (`evals.planted`). The same prompt always gets the same answer.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict, Field

from promptailor.app.backends.planted_critic import write_critique
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.evals.planted import PROFILE_WORLDS, PlantedPrompt, PlantedWorld, chance, gains
from promptailor.evals.planted_profiles import any_world
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, Sentence, SentencePattern
from promptailor.prompts.proposals import pattern_asked_for

NOISE = 0.15
"""Half-width of the uniform noise on the expected NDCG@10, before rounding to a place of the ranking adds its own."""
RECOGNITION_THRESHOLD = 0.45
"""Share of a catalogue sentence's (rarity-weighted) words that a text must keep to have that sentence's effect."""

_HISTORY = re.compile(r"<history>\n(.*?)\n</history>", re.DOTALL)
_CANDIDATES = re.compile(r"<candidates>\n(.*?)\n</candidates>\n?", re.DOTALL)
_WORD = re.compile(r"[a-z]+")
_PLACEHOLDER = re.compile(r"\{[^}]*\}")
_REFUSAL = "I am sorry, I cannot rank these."


class SentenceRecogniser:
    """Tells which catalogue sentence a text is, also after a rewrite that keeps most of its telling words."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._words = {p: _rarity_weighted(catalogue.sentences(p)) for p in SENTENCE_PATTERNS}
        self.recognise = lru_cache(maxsize=10_000)(self._recognise)
        """`_recognise`, remembered: a run has few distinct texts."""

    def _recognise(self, pattern: SentencePattern, text: str) -> str | None:
        """Return the id of the sentence that the text keeps most of; None where it keeps too little of each."""
        words = set(_WORD.findall(text.lower()))
        kept = {
            sentence_id: sum(weight for word, weight in weights.items() if word in words) / sum(weights.values())
            for sentence_id, weights in self._words[pattern].items()
        }
        best = max(kept, key=lambda sentence_id: kept[sentence_id])
        return best if kept[best] >= RECOGNITION_THRESHOLD else None


class PlantedChat(RankingChat):
    """A LangChain chat model that answers like a recommender whose best prompts are known."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    in_process: ClassVar[bool] = True

    world: PlantedWorld
    seed: int = 0
    """Seed of the noise; the world's own seed fixes everything else."""
    invalid_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of prompts answered with a refusal instead of a ranking."""

    @classmethod
    def from_world(cls, name: str, seed: int, *, catalogue: Catalogue | None = None) -> PlantedChat:
        """Build the model of a world named as in `planted:NAME`; an unknown name is a `SpecError` that lists them."""
        return cls(world=any_world(name, catalogue), seed=seed)

    @property
    def _llm_type(self) -> str:
        return "planted"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"world": self.world.seed, "seed": self.seed, "invalid_rate": self.invalid_rate}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Answer the prompt; the candidates' `labels` and other options are accepted and ignored."""
        system = "\n".join(m.text for m in messages if isinstance(m, SystemMessage))
        user = "\n".join(m.text for m in messages if not isinstance(m, SystemMessage))
        text = self.answer(system, user)
        n_input, n_output = len(system.split()) + len(user.split()), len(text.split())
        usage = {"input_tokens": n_input, "output_tokens": n_output, "total_tokens": n_input + n_output}
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text, usage_metadata=usage))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, stop, **kwargs)

    def count_tokens(self, messages: Sequence[BaseMessage]) -> int:
        """Count words, as the usage it reports does."""
        return sum(len(message.text.split()) for message in messages)

    def answer(self, system: str, user: str) -> str:
        """Answer one prompt: a ranking, or rewritten or new sentences where these are asked for."""
        if user.startswith(self._refine_affixes[0]):
            return f"Please note: {user.removeprefix(self._refine_affixes[0]).removesuffix(self._refine_affixes[1])}"
        if pattern := pattern_asked_for(user):
            return write_critique(pattern, self.world.catalogue, self._generator(system, user))
        block = _CANDIDATES.search(user)
        if block is None:
            return "There are no candidates to rank."
        rng = self._generator(system, user)
        if rng.random() < self.invalid_rate:
            return _REFUSAL
        candidates = [line.partition(". ")[2] for line in block[1].split("\n")]
        history = _HISTORY.search(user)
        recent = [line.removeprefix("- ") for line in history[1].split("\n")] if history else []
        tail = user[block.end() :]
        shown = PlantedPrompt(
            sentences={
                "role_playing": self._recogniser.recognise("role_playing", system),
                "reasoning_guidance": self._recogniser.recognise("reasoning_guidance", tail),
                "output_format": self._recogniser.recognise("output_format", tail),
            },
            history_length=len(recent),
        )
        ranking = self._rank(recent, candidates, shown, rng)
        return self._write(ranking, candidates, shown.sentences["output_format"])

    def _rank(
        self, recent: Sequence[str], candidates: Sequence[str], shown: PlantedPrompt, rng: random.Random
    ) -> list[int]:
        """Return the candidates' indices, best first: the user's next item where its gain is right on average."""
        ranking = list(range(len(candidates)))
        rng.shuffle(ranking)
        level = self.world.expected_ndcg(recent, candidates, shown)
        if level > chance(len(candidates)):
            next_item = candidates.index(self.world.next_title(recent[-1]))
            ranking.remove(next_item)
            ranking.insert(draw_place(level, len(candidates), rng), next_item)
        return ranking

    def _write(self, ranking: Sequence[int], candidates: Sequence[str], format_id: str | None) -> str:
        """Write a ranking in the recognised format, or one number per line."""
        style = self._formats.get(format_id)
        entries = [f"{n + 1}. {candidates[n]}" if style and style.titles else str(n + 1) for n in ranking]
        return ((style and style.separator) or "\n").join(entries)

    def _generator(self, system: str, user: str) -> random.Random:
        key = f"{self.world.seed}\0{self.seed}\0{system}\0{user}"
        return random.Random(hashlib.sha256(key.encode()).digest())

    @cached_property
    def _recogniser(self) -> SentenceRecogniser:
        return SentenceRecogniser(self.world.catalogue)

    @cached_property
    def _formats(self) -> dict[str | None, Sentence]:
        return {sentence.id: sentence for sentence in self.world.catalogue.sentences("output_format")}

    @cached_property
    def _refine_affixes(self) -> tuple[str, str]:
        before, _, after = self.world.catalogue.refine.text.partition("{sentence}")
        return before, after


def draw_place(level: float, n_candidates: int, rng: random.Random) -> int:
    """Draw a 0-based place whose expected NDCG@10 is exactly `level`.

    Uniform noise, narrowed where it would leave the range of NDCG, then stochastic rounding to one of the two
    neighbouring places.
    """
    ladder = gains(n_candidates)
    width = max(0.0, min(NOISE, level - ladder[-1], ladder[0] - level))
    noisy = level + width * (2.0 * rng.random() - 1.0)
    above = max(place for place in range(n_candidates) if ladder[place] >= noisy)
    below = min(above + 1, n_candidates - 1)
    step = ladder[above] - ladder[below]
    return below if step and rng.random() * step < ladder[above] - noisy else above


def _rarity_weighted(sentences: Sequence[Sentence]) -> dict[str, dict[str, float]]:
    """Return per sentence its words' weights: log((1 + n sentences) / n sentences with the word)."""
    words = {s.id: set(_WORD.findall(_PLACEHOLDER.sub(" ", s.text).lower())) for s in sentences}
    counts = Counter(word for bag in words.values() for word in bag)
    return {i: {word: math.log((1 + len(words)) / counts[word]) for word in sorted(bag)} for i, bag in words.items()}


def load(spec: ModelSpec, settings: Settings) -> BaseChatModel:
    """Make the model of a world; an unknown one is a `SpecError` that lists them."""
    spec.refuse_unknown("seed")
    if spec.model in PROFILE_WORLDS:
        from promptailor.app.backends.planted_profiles import ProfileChat  # noqa: PLC0415 - made of this module

        return ProfileChat.from_world(spec.model, seed=int(spec.number("seed", 0)))
    return PlantedChat.from_world(spec.model, seed=int(spec.number("seed", 0)))
