"""The trigger search on toy models whose best words are known: found, resumed, honest where there is nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.pap_rec.personal_words import Shrinker
from promptailor.policies.pap_rec.search import TriggerSearch, random_words
from promptailor.policies.pap_rec.state import SearchCases, SearchConfig, SearchState, TriggerCase
from promptailor.policies.pap_rec.surrogate import score, served
from promptailor.policies.white_box import Floats, Meter, TriggerVocabulary, VocabularyKind, WhiteBoxPrompt
from promptailor.prompts.llm import Message

N_WORDS, DIM, M = 60, 8, 10
LABELS = tuple(str(n) for n in range(1, M + 1))
PERSONAL = 4
"""Dimensions from which on words speak to a user's own taste."""


@dataclass
class ToyModel:
    """Knows a hint about each case, and how much of it shows hangs on the words.

    A prompt's first token is its case. Label m gets the logit noise_m + gate * hint_m: the hint is high for the
    relevant item, and the gate is the mean of the words' embeddings along `direction` and along the user's own taste.
    """

    relevant: Sequence[int]
    tastes: Floats
    """Shape (cases, DIM)."""
    direction: Floats
    hints: Floats
    noise: Floats
    embeddings: Floats = field(default_factory=lambda: np.random.default_rng(7).normal(size=(N_WORDS, DIM)))

    def vocabulary(self, kind: VocabularyKind = "words", barred: Collection[str] = ()) -> TriggerVocabulary:
        words = tuple(f"w{n}" for n in range(N_WORDS))
        return TriggerVocabulary(words=words, tokens=tuple(range(100, 100 + N_WORDS)), embeddings=self.embeddings)

    def encode(
        self, messages: Sequence[Message], *, labels: Sequence[str], relevant: int, triggers: Sequence[str]
    ) -> WhiteBoxPrompt | None:
        raise NotImplementedError

    def embed(self, tokens: Sequence[int]) -> Floats:
        raise NotImplementedError

    def label_log_probs(self, prompts: Sequence[WhiteBoxPrompt]) -> list[Floats]:
        return [np.round(self._logits(prompt), 4) for prompt in prompts]

    def gradients(self, prompts: Sequence[WhiteBoxPrompt]) -> tuple[Floats, Floats]:
        losses, gradients = [], []
        for prompt in prompts:
            case, log_probs = prompt.tokens[0], self._logits(prompt)
            wrong = np.exp(log_probs)
            wrong[prompt.relevant] -= 1
            along = (self.direction + self.tastes[case]) / len(prompt.positions)
            gradients.append(np.tile(wrong @ self.hints[case] * along, (len(prompt.positions), 1)))
            losses.append(-log_probs[prompt.relevant])
        return np.array(losses), np.array(gradients)

    def _logits(self, prompt: WhiteBoxPrompt) -> Floats:
        case, words = prompt.tokens[0], [prompt.tokens[p] - 100 for p in prompt.positions]
        gate = (self.embeddings[words] @ (self.direction + self.tastes[case])).mean() if words else 0.0
        logits = self.noise[case] + gate * self.hints[case]
        log_probs: Floats = logits - np.logaddexp.reduce(logits)
        return log_probs


def toy(n_cases: int, *, strength: float = 1.0, told: float = 1.0, taste: float = 0.0, seed: int = 0) -> ToyModel:
    """Return a model of so many users with two cases each, user u's being u and n_cases + u.

    `strength` is what shared words do, `told` how much hints say of the relevant item, `taste` what own words do.
    """
    rng = np.random.default_rng(seed)
    relevant = rng.integers(0, M, 2 * n_cases)
    hints = rng.normal(size=(2 * n_cases, M))
    hints[np.arange(2 * n_cases), relevant] += 1.5 * told
    direction = np.zeros(DIM)
    direction[0] = strength
    tastes = np.zeros((n_cases, DIM))
    tastes[:, PERSONAL:] = taste * rng.choice([-1.0, 1.0], size=(n_cases, DIM - PERSONAL))
    noise = rng.normal(size=(2 * n_cases, M))
    return ToyModel(relevant.tolist(), np.tile(tastes, (2, 1)), direction, hints, noise)


def prompt(model: ToyModel, case: int, words: Sequence[int]) -> WhiteBoxPrompt:
    positions = tuple(range(1, 1 + len(words)))
    return WhiteBoxPrompt(tokens=(case, *words), positions=positions, labels=LABELS, relevant=int(model.relevant[case]))


def search_over(model: ToyModel, n: int, config: SearchConfig, state: SearchState | None = None) -> TriggerSearch:
    """Search on the first 60 % of users, validate on the next 20 %, personalise the last."""
    vocabulary, places = model.vocabulary(), config.shared + config.personal
    start = [vocabulary.token_of(word) for word in random_words(vocabulary, places, lambda words: True, "start")]

    def cases(users: range, second: bool = False) -> list[TriggerCase]:
        return [TriggerCase(user_id=f"u{u}", prompt=prompt(model, u + second * n, start)) for u in users]

    train, validation, warm = range(n * 6 // 10), range(n * 6 // 10, n * 8 // 10), range(n * 8 // 10, n)
    return TriggerSearch(
        meter=Meter(box=model),
        vocabulary=vocabulary,
        config=config,
        cases=SearchCases(
            train=cases(train),
            validation=cases(validation),
            bare=[prompt(model, u, ()) for u in validation],
            train_again=cases(train, second=True),
            warm=cases(warm),
        ),
        fits=lambda words: True,
        state=state or SearchState(words=tuple(start)),
    )


def ndcg(model: ToyModel, cases: range, words: Sequence[int]) -> Floats:
    prompts = [prompt(model, case, words) for case in cases]
    return served(model.label_log_probs(prompts), [p.relevant for p in prompts])


@pytest.mark.parametrize("surrogate", ["ndcg+hit", "listwise", "both"])
def test_a_planted_trigger_is_found(surrogate: str) -> None:
    model = toy(150)
    search = search_over(model, 150, SearchConfig.model_validate({"shared": 3, "surrogate": surrogate, "batch": 64}))
    start = search.state.words
    *_, state = search.run()
    good = set(np.argsort(-model.embeddings[:, 0])[: N_WORDS // 6] + 100)
    assert state.best is not None
    assert set(state.best) <= good
    fresh = range(150, 300)
    assert ndcg(model, fresh, state.best).mean() > ndcg(model, fresh, start).mean() + 0.1
    assert ndcg(model, fresh, state.best).mean() > ndcg(model, fresh, ()).mean() + 0.1
    assert all((of or 0) > 0.5 for of in state.correlations.values())


def test_where_no_word_does_anything_none_is_served() -> None:
    *_, state = search_over(toy(100, strength=0.0), 100, SearchConfig(shared=3)).run()
    assert (state.best, state.stop, state.round) == (None, "converged", 1)


def test_what_raises_training_users_by_chance_does_not_pass_validation_users_as_a_gain() -> None:
    """Words sharpen hints that say nothing: on fresh users the selected words must gain nothing."""
    gains = []
    for seed in range(8):
        model = toy(60, told=0.0, seed=seed)
        *_, state = search_over(model, 60, SearchConfig(shared=2, rounds=2)).run()
        fresh = range(60, 120)
        gains.append((ndcg(model, fresh, state.best or ()) - ndcg(model, fresh, ())).mean())
    assert abs(np.mean(gains)) < 3 * np.std(gains, ddof=1) / np.sqrt(len(gains)) + 1e-9


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_a_killed_search_goes_on_to_the_same_end(stop_after: int) -> None:
    config = SearchConfig(shared=2, personal=1, rounds=3, batch=40)
    whole = search_over(toy(60, taste=0.5), 60, config)
    *_, unbroken = whole.run()
    killed = search_over(toy(60, taste=0.5), 60, config)
    saved = [state.model_dump_json() for state in islice(killed.run(), stop_after)][-1]
    again = search_over(toy(60, taste=0.5), 60, config, SearchState.model_validate_json(saved))
    *_, resumed = again.run()
    assert resumed == unbroken
    assert again.personalise() == whole.personalise()


def test_a_taste_that_repeats_gives_users_words_of_their_own_that_help_on_their_next_item() -> None:
    n = 150
    model = toy(n, strength=0.3, told=2.5, taste=0.4)
    search = search_over(model, n, SearchConfig(shared=1, personal=1, surrogate="listwise", rounds=2))
    *_, state = search.run()
    own = search.personalise()
    assert state.reliability[0] > 0.5
    assert len(own) > 15
    assert state.best is not None
    cases = [n + int(user[1:]) for user in own]
    relevant = [int(model.relevant[case]) for case in cases]
    with_own, shared = (
        score(model.label_log_probs([prompt(model, case, words) for case, words in pairs]), relevant, "listwise")
        for pairs in (
            [(case, (state.best[0], *words)) for case, words in zip(cases, own.values(), strict=True)],
            [(case, state.best) for case in cases],
        )
    )
    gains = with_own - shared
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))


def test_without_a_signal_shrinkage_leaves_everybody_the_shared_words_and_the_paper_does_not() -> None:
    """Here hints are noise to each item anew, so that what a word gains on one says nothing of the next."""
    model = toy(150, told=0.3)
    config = SearchConfig(shared=1, personal=1, rounds=2, admit=False)
    shrunk = search_over(model, 150, config)
    list(shrunk.run())
    assert shrunk.personalise() == {}
    paper = search_over(model, 150, config.model_copy(update={"shrinkage": "none"}))
    list(paper.run())
    assert len(paper.personalise()) > 10


def test_nothing_is_asked_about_users_who_have_no_part_in_the_search() -> None:
    class Watched(ToyModel):
        seen: set[int]

        def _logits(self, asked: WhiteBoxPrompt) -> Floats:
            self.seen.add(asked.tokens[0])
            return super()._logits(asked)

    plain = toy(100)
    model = Watched(plain.relevant, plain.tastes, plain.direction, plain.hints, plain.noise)
    model.seen = set()
    search = search_over(model, 100, SearchConfig(shared=2, rounds=2))
    list(search.run())
    assert model.seen == set(range(80)), "training and validation users on their first item, and nobody else"
    warm = search_over(model, 100, SearchConfig(shared=2, personal=1, rounds=2))
    list(warm.run())
    warm.personalise()
    assert model.seen <= {*range(100), *range(100, 160)}, "warm users on their first item only"


gains = st.dictionaries(st.integers(0, 9), st.floats(-3, 3), max_size=10)


@given(gains, st.dictionaries(st.integers(0, 9), st.floats(-3, 3), max_size=10))
def test_a_gain_that_never_repeats_moves_nobody(of_user: dict[int, float], means: dict[int, float]) -> None:
    assert Shrinker(reliability=0.0, means=means).choose(of_user) is None


@given(gains)
def test_without_shrinkage_the_best_gain_above_nothing_wins(of_user: dict[int, float]) -> None:
    chosen = Shrinker.none().choose(of_user)
    assert (chosen is None) == (max(of_user.values(), default=0.0) <= 0.0)
    if chosen is not None:
        assert of_user[chosen] == max(of_user.values())


@pytest.mark.parametrize(("shared", "low", "high"), [(0.0, 0.0, 0.0), (0.5, 0.35, 0.52), (1.0, 0.75, 1.0)])
def test_reliability_is_the_share_of_what_repeats(shared: float, low: float, high: float) -> None:
    """The lower end of its interval: never above the truth by much, and 0 where nothing repeats."""
    rng = np.random.default_rng(5)
    common, first, second = (rng.normal(size=(800, 16)) for _ in range(3))
    mixed = [np.sqrt(shared) * common + np.sqrt(1 - shared) * of for of in (first, second)]
    assert low <= Shrinker.fit(range(16), *mixed).reliability <= high + 1e-9


def test_random_words_hang_on_their_key_and_are_redrawn_until_they_fit() -> None:
    vocabulary = toy(10).vocabulary()
    drawn = random_words(vocabulary, 4, lambda words: True, "seed", 1)
    assert drawn == random_words(vocabulary, 4, lambda words: True, "seed", 1)
    assert drawn != random_words(vocabulary, 4, lambda words: True, "seed", 2)
    assert random_words(vocabulary, 4, lambda words: words != drawn, "seed", 1) != drawn
    assert replace(vocabulary).token_of("w3") == 103
