"""Gradient-guided search of trigger words (PAP-REC): shared rounds, and personal ones in turn with them.

A shared round visits the places in random order. The mean gradient of the listwise loss at a place scores every word w
by its first-order effect, -e_w . g (HotFlip, AutoPrompt); the k best are tried by one forward pass each, and the best
stands if the surrogate rises over all training users. A personal round does the same for each user alone, with the
gains shrunk (`personal_words`).

Departures from the paper: candidates are tried on a batch of users and only the best of them on all; rankings are read
off one forward pass instead of 20 beams; words are selected by their surrogate on validation users, who are searched on
by nobody, and the prompt without any words competes there; test users are never looked at. Every draw is keyed, and the
state is handed out after every step, so that a killed search goes on to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from promptailor.policies.draws import uniform
from promptailor.policies.pap_rec.personal_search import PersonalSearch
from promptailor.policies.pap_rec.state import Round, SearchCases, SearchConfig, SearchState, Tokens, Trial, TriggerCase
from promptailor.policies.pap_rec.surrogate import SURROGATES, score, served
from promptailor.policies.white_box import Floats, Meter, TriggerVocabulary

EVERYBODY = -1
"""In place of a place: words as those users have them whom nobody searched for."""


def random_words(
    vocabulary: TriggerVocabulary, n: int, fits: Callable[[Sequence[str]], bool], *key: str | int
) -> tuple[str, ...]:
    """Draw n words that stand for themselves beside one another; the draw hangs on the key alone."""
    attempt = 0
    while True:
        draws = [uniform(*key, attempt, place) for place in range(n)]
        drawn = tuple(vocabulary.words[int(draw * len(vocabulary.words))] for draw in draws)
        if fits(drawn):
            return drawn
        attempt += 1


@dataclass(kw_only=True)
class TriggerSearch:
    """A search over one white box."""

    meter: Meter
    vocabulary: TriggerVocabulary
    config: SearchConfig
    cases: SearchCases
    fits: Callable[[Sequence[str]], bool]
    """Whether words, beside one another in a prompt, are tokenised as themselves."""
    state: SearchState
    seed: int = 0
    """Keys every draw."""

    def __post_init__(self) -> None:
        self._word = dict(zip(self.vocabulary.tokens, self.vocabulary.words, strict=True))
        self.meter.prompts = self.state.prompts

    def run(self) -> Iterator[SearchState]:
        """Go on from the state to the end, handing the state out after every step."""
        state = self.state
        if state.best_surrogate is None:
            self._validate_bare()
            yield self._counted()
        while state.stop is None:
            for place in self._order()[state.turn :]:
                self._visit(place)
                state.turn += 1
                yield self._counted()
            if self.config.personal:
                cases = self._draw(self.cases.train, "personal")
                state.personal, _ = self._personal.fit(state.words, cases, self._again(cases))
            self._end_round()
            yield self._counted()

    def personalise(self) -> dict[str, Tokens]:
        """Return the warm users' own words behind the best shared ones; those who keep the shared words have none."""
        best = self.state.best
        if not self.config.personal or best is None:
            return {}
        cases = self._draw(self.cases.train, "personal")
        _, places = self._personal.fit(best, cases, self._again(cases))
        self.state.reliability = tuple(place.shrinker.reliability for place in places)
        chosen = self._personal.choose(best, self.cases.warm, places)
        self._counted()
        return chosen

    def text(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the words of tokens."""
        return tuple(self._word[token] for token in tokens)

    @property
    def _personal(self) -> PersonalSearch:
        return PersonalSearch(
            meter=self.meter,
            vocabulary=self.vocabulary,
            config=self.config,
            fits=lambda tokens: self.fits(self.text(tokens)),
        )

    def _counted(self) -> SearchState:
        self.state.prompts = self.meter.prompts
        return self.state

    def _order(self) -> list[int]:
        """Return the places of this round in the order they are visited."""
        places = range(len(self.state.words))
        return sorted(places, key=lambda place: uniform("order", self.seed, self.state.round, place))

    def _visit(self, place: int) -> None:
        """Try to better the word at one place."""
        state = self.state
        batch = self._draw(self.cases.train, "batch", state.round, place)
        prompts = [case.prompt.exchanged(self._seen(case, state.words, place)) for case in batch]
        gradient = self.meter.gradients(prompts)[:, place].mean(axis=0)
        candidates = self._candidates(-self.vocabulary.embeddings @ gradient, place)
        if not candidates:
            return
        log_probs = [self._log_probs(batch, words, place) for words in (state.words, *candidates)]
        self._record(batch, log_probs)
        before, *after = (self._mean(batch, of) for of in log_probs)
        best = int(np.argmax(after))
        if after[best] <= before:
            return
        everyone = self.cases.train
        if len(batch) < len(everyone):
            without, with_it = (
                self._mean(everyone, self._log_probs(everyone, words, place))
                for words in (state.words, candidates[best])
            )
            if with_it <= without:
                return
        state.words = candidates[best]
        state.accepted += 1

    def _candidates(self, scores: Floats, place: int) -> list[Tokens]:
        """Return the words with the best first-order candidates at a place that fit beside the others."""
        words, found = self.state.words, list[Tokens]()
        for row in np.argsort(-scores, kind="stable"):
            changed = (*words[:place], self.vocabulary.tokens[row], *words[place + 1 :])
            if changed != words and self.fits(self.text(changed)):
                found.append(changed)
            if len(found) == self.config.top_k:
                break
        return found

    def _validate_bare(self) -> None:
        log_probs = self.meter.label_log_probs(self.cases.bare)
        relevant = [prompt.relevant for prompt in self.cases.bare]
        self.state.best_surrogate = float(score(log_probs, relevant, self.config.surrogate).mean())
        self.state.best_served = self.state.bare_served = float(served(log_probs, relevant).mean())

    def _end_round(self) -> None:
        """Validate the words as users get them whom nobody searched for, and decide whether to go on."""
        state, config = self.state, self.config
        train = self._draw(self.cases.train, "reward")
        mean_reward = served(self._log_probs(train, state.words, EVERYBODY), _relevant(train)).mean()
        log_probs = self._log_probs(self.cases.validation, state.words, EVERYBODY)
        surrogate = self._mean(self.cases.validation, log_probs)
        reward = float(served(log_probs, _relevant(self.cases.validation)).mean())
        state.log.append(
            Round(
                epoch=state.round,
                calls=self.meter.prompts,
                mean_reward=float(mean_reward),
                validation=reward,
                validation_surrogate=surrogate,
                accepted=state.accepted,
                words=self.text(state.words),
            )
        )
        assert state.best_surrogate is not None, "the prompt without words was validated first"
        if surrogate > state.best_surrogate or (state.best is None and not config.admit):
            state.best, state.best_surrogate, state.best_served, state.stale = state.words, surrogate, reward, 0
        else:
            state.stale += 1
        state.round += 1
        if not state.accepted:
            state.stop = "converged"
        elif state.stale >= config.patience:
            state.stop = "early"
        elif state.round >= config.rounds:
            state.stop = "rounds"
        state.turn = state.accepted = 0

    def _seen(self, case: TriggerCase, words: Tokens, place: int) -> Tokens:
        """Return the words a user has while one place is searched.

        A shared place is judged behind the users' own words, a personal one as those see it who have none.
        """
        own = self.state.personal.get(case.user_id)
        return (*words[: self.config.shared], *own) if own and 0 <= place < self.config.shared else words

    def _log_probs(self, cases: Sequence[TriggerCase], words: Tokens, place: int) -> list[Floats]:
        return self.meter.label_log_probs([case.prompt.exchanged(self._seen(case, words, place)) for case in cases])

    def _mean(self, cases: Sequence[TriggerCase], log_probs: Sequence[Floats]) -> float:
        return float(score(log_probs, _relevant(cases), self.config.surrogate).mean())

    def _record(self, batch: Sequence[TriggerCase], tried: Sequence[Sequence[Floats]]) -> None:
        """Keep what candidates gained by every surrogate on one half of the batch, and by NDCG@10 on the other."""
        relevant = _relevant(batch)
        half = np.array([uniform("half", case.user_id) < 0.5 for case in batch])
        if half.all() or not half.any():
            return
        by = {s: [float(score(of, relevant, s)[half].mean()) for of in tried] for s in SURROGATES}
        ndcg = [float(served(of, relevant)[~half].mean()) for of in tried]
        self.state.trials += [
            Trial(surrogates={s: by[s][n] - by[s][0] for s in SURROGATES}, served=ndcg[n] - ndcg[0])
            for n in range(1, len(tried))
        ]

    def _draw(self, cases: Sequence[TriggerCase], *key: str | int) -> Sequence[TriggerCase]:
        """Return a batch of users, in their order."""
        if len(cases) <= self.config.batch:
            return cases
        draws = [uniform(*key, self.seed, case.user_id) for case in cases]
        chosen = set(np.argsort(draws, kind="stable")[: self.config.batch].tolist())
        return [case for n, case in enumerate(cases) if n in chosen]

    def _again(self, cases: Sequence[TriggerCase]) -> list[TriggerCase]:
        by_user = {case.user_id: case for case in self.cases.train_again}
        return [by_user[case.user_id] for case in cases]


def _relevant(cases: Sequence[TriggerCase]) -> list[int]:
    return [case.prompt.relevant for case in cases]
