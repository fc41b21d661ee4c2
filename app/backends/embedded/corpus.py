"""The corpus: an endless, seeded stream of prompts with the answers the embedded model is taught.

Everything is drawn from `Dataset.training_sequences()`; the last two interactions of every user are never seen.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from promptailor.app.backends.embedded.tasks import Tasks
from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.embedded.tokenizer import MAX_LABEL, PromptEncoder
from promptailor.evals.datasets import Dataset
from promptailor.prompts.assemble import assemble, clean_title
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.llm import Message
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, PromptSpec, Sentence, SentencePattern

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How often the stream shows what; all are probabilities."""

    refine: float = 0.06
    summarise: float = 0.03
    profile: float = 0.03
    no_sentence: float = 0.10
    """A sentence pattern is left out."""
    paraphrase: float = 0.15
    """A sentence is shown as one of its paraphrases."""
    in_words: float = 0.25
    """A prompt's catalogue sentences are spelled out in words."""
    positives_first: float = 0.5
    """The user's future titles lead the order; otherwise the order is the teacher's alone."""
    user_profile: float = 0.10
    """Some of what is known about the user is shown."""
    stranger: float = 0.05
    """One candidate is no catalogue title; it belongs last, whatever its text says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt and the answer to learn, as token ids."""

    prompt: list[int]
    answer: list[int]
    """Ends with the end token."""
    numbers: list[int] = field(default_factory=list)
    """The candidates' numbers, best first; empty where the task is not ranking."""
    n_ordered: int = 0
    """How many leading places of `numbers` mean something; the rest are in random order."""

    title_places: list[int] = field(default_factory=list)
    """Where the candidates' title tokens stand in `prompt`, best first; empty where a candidate has none."""
    number_places: list[int] = field(default_factory=list)
    """Where the numbers stand in prompt and answer, best first; empty with `title_places`."""
    written_title_places: list[int] = field(default_factory=list)
    """Where titles stand in prompt and answer, best first; empty where the format asks for none."""

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleSequence:
    """A history prompt for next-title training: the loss is on the title tokens."""

    tokens: list[int]
    title_places: list[int]

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.tokens)


class Corpus:
    """Draws examples; equal generators give equal examples.

    Args:
        dataset: only its training sequences and its items are read.
        catalogue: the sentences to teach.
        tasks: paraphrases and the tasks beside ranking.
        encoder: the tokenizer's encoder.
        teachers: the meaning of each strategy; item indices are positions in `dataset.items`.
        mixture: how often each kind of example is drawn.
    """

    def __init__(
        self,
        dataset: Dataset,
        catalogue: Catalogue,
        tasks: Tasks,
        encoder: PromptEncoder,
        teachers: Teachers,
        mixture: Mixture | None = None,
    ) -> None:
        self.mixture = mixture or Mixture()
        self._dataset, self._catalogue, self._tasks = dataset, catalogue, tasks
        self.encoder, self._teachers = encoder, teachers
        self._items = list(dataset.items.values())
        index = {item.item_id: i for i, item in enumerate(self._items)}
        self._title_ids = frozenset(encoder.title_id(item.title) for item in self._items)
        sequences = {u: [index[i] for i in s] for u, s in dataset.training_sequences().items() if len(s) > 1}
        self._users, self._sequences = list(sequences), list(sequences.values())
        lengths = np.array([len(s) for s in self._sequences], dtype=np.float64)
        # Long histories teach more, but every user counts once when the model is used: the square root is between.
        self._cumulative = np.cumsum(np.sqrt(lengths)) / np.sqrt(lengths).sum()

    def title_sequence(self, rng: np.random.Generator, max_titles: int) -> TitleSequence:
        """Draw a stretch of one user's history as the beginning of a prompt."""
        sequence = self._sequences[self._user(rng)]
        start = int(rng.integers(0, max(len(sequence) - max_titles, 0) + 1))
        lines = "\n".join(f"- {clean_title(self._items[i].title)}" for i in sequence[start : start + max_titles])
        words = self._catalogue.words(self._dataset.domain)
        content = f"{self._catalogue.history_records.text.format_map(words)}\n<history>\n{lines}\n</history>"
        tokens = self.encoder.messages([Message(role="user", content=content)])
        return TitleSequence(tokens=tokens, title_places=[p for p, t in enumerate(tokens) if t in self._title_ids])

    def example(self, rng: np.random.Generator, reach: float = 1.0) -> Example:
        """Draw an example of any task; `reach` below 1 shortens the histories of ranking prompts in proportion."""
        draw, mixture = rng.random(), self.mixture
        for probability, task in (
            (mixture.refine, self._refine),
            (mixture.summarise, self._summarise),
            (mixture.profile, self._profile),
        ):
            if draw < probability:
                return task(rng)
            draw -= probability
        return self.ranking(rng, reach)

    def ranking(self, rng: np.random.Generator, reach: float = 1.0) -> Example:
        """Draw a ranking prompt: a user at a random moment, a random prompt, and the order its reasoning stands for."""
        user = self._user(rng)
        history, positives, negatives = self._moment(rng, user)
        spec = self._spec(rng, reach)
        shown = history[len(history) - min(spec.history_length, len(history)) :]
        candidates = [self._items[i] for i in (*positives, *negatives)]
        order, n_ordered = self._order(rng, spec, shown, positives, negatives)
        if rng.random() < self.mixture.stranger:
            candidates.append(Item(item_id="stranger", title=self._stranger_title(rng)))
            order = [*order, len(candidates) - 1]
        ids = [item.item_id for item in candidates]
        request = RankRequest(
            user_id=str(rng.integers(1 << 62)),
            history=tuple(self._items[i] for i in history[-MAX_LABEL:]),
            candidates=tuple(candidates),
            domain=self._dataset.domain,
            user_profile=self._dataset.profiles.get(self._users[user]),
        )
        prompt = assemble(request, spec, self._catalogue, seed=0, refined=self._refined(rng, spec))
        place = {item.item_id: n for n, item in enumerate(prompt.shown, 1)}
        ranked = [place[ids[i]] for i in order]
        tokens = self.encoder.messages(prompt.messages, in_words=rng.random() < self.mixture.in_words)
        place_of = self._candidate_places(tokens)
        output_format = self._catalogue.output_format.sentences[spec.output_format or 0]
        answer = self.encoder.text(answer_text(output_format, ranked, [prompt.shown[n - 1].title for n in ranked]))
        example = Example(prompt=tokens, answer=[*answer, self.encoder.end_id], numbers=ranked, n_ordered=n_ordered)
        if len(place_of) < len(ranked):
            return example
        places = list(enumerate(answer, len(tokens)))
        return dataclasses.replace(
            example,
            title_places=[place_of[n] for n in ranked],
            number_places=[place for place, token in places if token in self.encoder.number_of],
            written_title_places=[place for place, token in places if token in self._title_ids],
        )

    def _candidate_places(self, tokens: list[int]) -> dict[int, int]:
        """Return where each candidate's title token stands, by its number; titles spelled in bytes have none."""
        markers = {token: n for n, token in enumerate(self.encoder.marker_ids, 1)}
        places = {markers[token]: place + 1 for place, token in enumerate(tokens) if token in markers}
        return {n: place for n, place in places.items() if tokens[place] in self._title_ids}

    def _user(self, rng: np.random.Generator) -> int:
        return int(np.searchsorted(self._cumulative[:-1], rng.random(), side="right"))

    def _moment(self, rng: np.random.Generator, user: int) -> tuple[list[int], list[int], list[int]]:
        """Draw a moment of a user: the history until then, one to three future items, and untouched items."""
        sequence = self._sequences[user]
        cut = int(rng.integers(1, len(sequence)))
        n_candidates = _pick(rng, (10, int(rng.integers(4, 21)), int(rng.integers(20, MAX_LABEL))), (0.6, 0.35, 0.05))
        positives = sequence[cut : cut + int(rng.integers(1, 4))]
        touched, negatives = set(sequence), set[int]()
        n_untouched = len(self._items) - len(touched)  # in a small catalogue there may be too few
        while len(negatives) < min(n_candidates - len(positives), n_untouched):
            item = int(rng.integers(len(self._items)))
            if item not in touched:
                negatives.add(item)
        return sequence[:cut], positives, sorted(negatives)

    def _spec(self, rng: np.random.Generator, reach: float) -> PromptSpec:
        def choose(pattern: SentencePattern) -> int | None:
            if rng.random() < self.mixture.no_sentence:
                return None
            return int(rng.integers(self._catalogue.n_actions(pattern)))

        n_subsets = self._catalogue.n_actions("user_profile")
        return PromptSpec(
            role_playing=choose("role_playing"),
            history_length=round(reach * rng.integers(0, self._catalogue.history_records.max_length + 1)),
            reasoning_guidance=choose("reasoning_guidance"),
            output_format=choose("output_format"),
            user_profile=int(rng.integers(n_subsets)) if rng.random() < self.mixture.user_profile else 0,
        )

    def _order(
        self, rng: np.random.Generator, spec: PromptSpec, shown: list[int], positives: list[int], negatives: list[int]
    ) -> tuple[list[int], int]:
        """Return positions in (*positives, *negatives), best first, and how many leading places mean something."""
        n_candidates = len(positives) + len(negatives)
        if spec.reasoning_guidance is None:  # no guidance: only what came next is known
            rest = len(positives) + rng.permutation(len(negatives))
            return [*range(len(positives)), *rest.tolist()], len(positives)
        strategy = self._catalogue.reasoning_guidance.sentences[spec.reasoning_guidance].strategy
        scores = self._teachers.scores(strategy or "next_item", shown, [*positives, *negatives])
        order: list[int] = np.argsort(-scores, kind="stable").tolist()
        if rng.random() < self.mixture.positives_first:
            order.sort(key=lambda place: place >= len(positives))
        return order, n_candidates

    def _refined(self, rng: np.random.Generator, spec: PromptSpec) -> dict[SentencePattern, str]:
        """Replace some of the chosen sentences by paraphrases, as a refiner would."""
        refined: dict[SentencePattern, str] = {}
        for pattern in SENTENCE_PATTERNS:
            index: int | None = getattr(spec, pattern)
            if index is not None and rng.random() < self.mixture.paraphrase:
                _, paraphrases = self._variants(pattern, self._catalogue.sentences(pattern)[index])
                if paraphrases:
                    refined[pattern] = _pick(rng, paraphrases)
        return refined

    def _variants(self, pattern: SentencePattern, sentence: Sentence) -> tuple[str, list[str]]:
        """Return a sentence and its paraphrases, domain words filled in."""
        words = self._catalogue.words(self._dataset.domain)
        paraphrases = self._tasks.paraphrases.get(pattern, {}).get(sentence.id, ())
        return sentence.text.format_map(words), [text.format_map(words) for text in paraphrases]

    def _stranger_title(self, rng: np.random.Generator) -> str:
        """Make up a title out of fragments of prompts and real titles."""
        pattern = _pick(rng, SENTENCE_PATTERNS)
        sentence, _ = self._variants(pattern, _pick(rng, self._catalogue.sentences(pattern)))
        words = [*sentence.split(), *_pick(rng, self._items).title.split(), str(rng.integers(1, 21))]
        title = " ".join(_pick(rng, words) for _ in range(int(rng.integers(1, 7))))
        return title if self.encoder.title_id(title) is None else f"{title} {title}"

    def _refine(self, rng: np.random.Generator) -> Example:
        pattern = _pick(rng, SENTENCE_PATTERNS)
        sentence, paraphrases = self._variants(pattern, _pick(rng, self._catalogue.sentences(pattern)))
        variants = [sentence, *paraphrases]
        asked = int(rng.integers(len(variants)))
        answer = variants[(asked + 1) % len(variants)]  # one answer per sentence: greedy decoding then gives it whole
        return self._task(self._catalogue.refine.text.format(sentence=variants[asked]), answer)

    def _summarise(self, rng: np.random.Generator) -> Example:
        index, task = int(rng.integers(len(self._items))), self._tasks.summarise
        item, words = self._items[index], self._catalogue.words(self._dataset.domain)
        lines = []
        if item.categories:
            lines.append(task.kinds.format(kinds=", ".join(item.categories)))
        if year := self._dataset.years.get(item.item_id):
            lines.append(task.decade.format(decade=year // 10 * 10))
        if not lines:
            lines = [task.similar.format_map(words), *self._title_lines(self._teachers.neighbours(index, 3))]
        question = _pick(rng, task.instructions).format_map(words)
        return self._task(f"{question}\n<item>\n- {clean_title(item.title)}\n</item>", "\n".join(lines))

    def _profile(self, rng: np.random.Generator) -> Example:
        history, _, _ = self._moment(rng, self._user(rng))
        shown = history[-int(rng.integers(1, self._catalogue.history_records.max_length + 1)) :]
        words, task = self._catalogue.words(self._dataset.domain), self._tasks.profile
        kinds = Counter(kind for i in shown for kind in self._items[i].categories)
        years = [self._dataset.years.get(self._items[i].item_id) for i in shown]
        decades = Counter(f"{year // 10 * 10}s" for year in years if year)
        lines = []
        if kinds:
            lines.append(task.kinds.format(kinds=", ".join(_most_common(kinds, 3))))
        if decades:
            lines.append(task.decades.format(decades=", ".join(_most_common(decades, 2))))
        lines += [task.favourites, *self._title_lines(self._teachers.central(shown, 3))]
        fenced = "\n".join(self._title_lines(shown))
        instruction = _pick(rng, task.instructions).format_map(words)
        text = self._catalogue.history_records.text.format_map(words)
        return self._task(f"{text}\n<history>\n{fenced}\n</history>\n{instruction}", "\n".join(lines))

    def _title_lines(self, indices: Sequence[int]) -> list[str]:
        return [f"- {clean_title(self._items[i].title)}" for i in indices]

    def _task(self, question: str, answer: str) -> Example:
        return Example(
            prompt=self.encoder.messages([Message(role="user", content=question)]),
            answer=[*self.encoder.text(answer), self.encoder.end_id],
        )


def answer_text(output_format: Sentence, numbers: Sequence[int], titles: Sequence[str]) -> str:
    """Write a ranking the way an output format asks for it."""
    parts = (
        [f"{n}. {clean_title(t)}" for n, t in zip(numbers, titles, strict=True)] if output_format.titles else numbers
    )
    return (output_format.separator or "\n").join(map(str, parts))


def _most_common(counts: Counter[str], n: int) -> list[str]:
    return [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:n]]


def _pick(rng: np.random.Generator, choices: Sequence[T], p: Sequence[float] | None = None) -> T:
    return choices[int(rng.choice(len(choices), p=p))]
