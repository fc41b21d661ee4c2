"""The personal rounds of a trigger search: for each user alone, the words that the user's own gradient asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from promptailor.policies.pap_rec.personal_words import Shrinker
from promptailor.policies.pap_rec.state import SearchConfig, Tokens, TriggerCase
from promptailor.policies.pap_rec.surrogate import score
from promptailor.policies.white_box import Meter, TriggerVocabulary, WhiteBoxPrompt

POOL = 16
"""Words that users choose among: those that most training users' gradients ask for, so that gains have a mean."""

Own = dict[str, list[int]]
"""Each user's tokens in the personal places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalPlace:
    """What training users tell of one place."""

    pool: tuple[int, ...]
    """Rows of the vocabulary."""
    shrinker: Shrinker


@dataclass(frozen=True, kw_only=True)
class PersonalSearch:
    """Searches words of users' own behind shared ones, one place after the other."""

    meter: Meter
    vocabulary: TriggerVocabulary
    config: SearchConfig
    fits: Callable[[Sequence[int]], bool]
    """Whether tokens, beside one another in a prompt, stand for themselves."""

    def fit(
        self, words: Tokens, cases: Sequence[TriggerCase], again: Sequence[TriggerCase]
    ) -> tuple[dict[str, Tokens], list[PersonalPlace]]:
        """Give training users words of their own, and learn how far gains on one item are to be believed.

        Args:
            words: everybody's; the last places are the personal ones.
            cases: training users on one held-out item.
            again: the same users, in the same order, on another.

        Returns:
            The words of those users who do not keep everybody's, and what was learned of each place.
        """
        own, places = self._begin(words, cases), list[PersonalPlace]()
        for slot in range(self.config.personal):
            place = self.config.shared + slot
            wanted = self._wanted(cases, own, words, place, range(len(self.vocabulary.tokens)))
            counts = Counter(row for of_user in wanted for row in of_user)
            frequent = sorted(counts, key=lambda row: (-counts[row], row))
            pool = tuple(row for row in frequent if self.fits(self._changed(words, place, row)))[:POOL]
            gains, repeated = (self._gains(of, own, words, place, [pool] * len(of)) for of in (cases, again))
            shrinker = Shrinker.none()
            if self.config.shrinkage == "eb":
                shrinker = Shrinker.fit(pool, np.array(gains), np.array(repeated))
            asked = [
                {row: gain for row, gain in zip(pool, of_user, strict=True) if row in rows}
                for rows, of_user in zip(wanted, gains, strict=True)
            ]
            self._choose(cases, own, slot, shrinker, asked)
            places.append(PersonalPlace(pool=pool, shrinker=shrinker))
        return self._different(own, words), places

    def choose(self, words: Tokens, cases: Sequence[TriggerCase], places: Sequence[PersonalPlace]) -> dict[str, Tokens]:
        """Give users words of their own by what was learned of each place; those who keep everybody's are left out."""
        own = self._begin(words, cases)
        for slot, learned in enumerate(places):
            place = self.config.shared + slot
            wanted = self._wanted(cases, own, words, place, learned.pool)
            gains = self._gains(cases, own, words, place, wanted)
            asked = [dict(zip(rows, of_user, strict=True)) for rows, of_user in zip(wanted, gains, strict=True)]
            self._choose(cases, own, slot, learned.shrinker, asked)
        return self._different(own, words)

    def _begin(self, words: Tokens, cases: Sequence[TriggerCase]) -> Own:
        return {case.user_id: list(words[self.config.shared :]) for case in cases}

    def _different(self, own: Own, words: Tokens) -> dict[str, Tokens]:
        default = list(words[self.config.shared :])
        return {user: tuple(tokens) for user, tokens in own.items() if tokens != default}

    def _choose(
        self,
        cases: Sequence[TriggerCase],
        own: Own,
        slot: int,
        shrinker: Shrinker,
        asked: Sequence[Mapping[int, float]],
    ) -> None:
        for case, gains in zip(cases, asked, strict=True):
            if (row := shrinker.choose(gains)) is not None:
                own[case.user_id][slot] = self.vocabulary.tokens[row]

    def _wanted(
        self, cases: Sequence[TriggerCase], own: Own, words: Tokens, place: int, among: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """Return the rows that each user's own gradient scores best, other than the shared word."""
        rows = np.array([row for row in among if self.vocabulary.tokens[row] != words[place]], dtype=int)
        if not cases or not len(rows):
            return [()] * len(cases)
        prompts = [case.prompt.exchanged(self._of(case, own, words)) for case in cases]
        scores = -self.meter.gradients(prompts)[:, place] @ self.vocabulary.embeddings[rows].T
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.config.top_k]
        return [tuple(rows[of_user].tolist()) for of_user in best]

    def _gains(
        self, cases: Sequence[TriggerCase], own: Own, words: Tokens, place: int, asked: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return what each word that a case is asked about gains over the shared one, on that case alone."""
        prompts, counts = list[WhiteBoxPrompt](), list[int]()
        for case, rows in zip(cases, asked, strict=True):
            base = self._of(case, own, words)
            tried = [base, *(self._changed(base, place, row) for row in rows)]
            prompts += [case.prompt.exchanged(tokens) for tokens in tried]
            counts.append(len(tried))
        if not prompts:
            return []
        log_probs = self.meter.label_log_probs(prompts)
        scores = score(log_probs, [prompt.relevant for prompt in prompts], self.config.surrogate)
        parts = np.split(scores, np.cumsum(counts)[:-1])
        return [(part[1:] - part[0]).tolist() for part in parts]

    def _of(self, case: TriggerCase, own: Own, words: Tokens) -> Tokens:
        return (*words[: self.config.shared], *own[case.user_id])

    def _changed(self, words: Tokens, place: int, row: int) -> Tokens:
        return (*words[:place], self.vocabulary.tokens[row], *words[place + 1 :])
