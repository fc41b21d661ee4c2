"""GRIPS edits what hurts away, stops by itself, and is told no more than scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from promptailor.policies.base import Decision, PromptEvaluator, Questions, Replies, Trial
from promptailor.policies.grips import Grips, GripsConfig, edit_search, search_one_prompt
from promptailor.policies.types import StateInputs
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import Catalogue, SentencePattern, check_sentence

HARMFUL = "every {item}"
Score = Callable[[str], float]


def text_of(decision: Decision, catalogue: Catalogue) -> str:
    """The three sentences of a prompt, as templates."""
    manual = catalogue.manual_prompt
    own: dict[SentencePattern, str] = {
        "role_playing": catalogue.role_playing.sentences[manual.role_playing or 0].text,
        "reasoning_guidance": catalogue.reasoning_guidance.sentences[manual.reasoning_guidance or 0].text,
        "output_format": catalogue.output_format.sentences[manual.output_format or 0].text,
    }
    assert decision.spec == manual
    return "\n".join({**own, **decision.sentences}.values())


@dataclass
class Answerer:
    """Answers a search's questions by the text of the prompts."""

    catalogue: Catalogue
    score: Score
    asked: list[Questions] = field(default_factory=list)
    rewritten: str | None = None

    def run(self, config: GripsConfig, *, key: tuple[str | int, ...] = (0, "u"), rewrites: bool = False) -> Decision:
        search = edit_search(self.catalogue, config, key=key, rewrites=rewrites)
        questions = next(search)
        while True:
            self.asked.append(questions)
            rewards = tuple(self.score(text_of(attempt, self.catalogue)) for attempt in questions.attempts)
            replies = Replies(rewards=rewards, rewrites=(self.rewritten,) * len(questions.rewrites))
            try:
                questions = search.send(replies)
            except StopIteration as end:
                found: Decision = end.value
                return found

    @property
    def n_attempts(self) -> list[int]:
        return [len(questions.attempts) for questions in self.asked]


def without_harm(text: str) -> float:
    return 0.4 if HARMFUL in text else 0.9


def test_a_phrase_that_hurts_is_deleted(catalogue: Catalogue) -> None:
    answerer = Answerer(catalogue, without_harm)
    found = answerer.run(GripsConfig(rounds=40, patience=40))
    assert HARMFUL in text_of(Decision(spec=catalogue.manual_prompt), catalogue)
    assert HARMFUL not in text_of(found, catalogue)
    assert set(found.sentences) == {"reasoning_guidance"}, "the others stay the catalogue's own"


def test_where_nothing_is_better_the_manual_prompt_stays_and_patience_ends_the_search(catalogue: Catalogue) -> None:
    answerer = Answerer(catalogue, lambda text: 0.5)
    found = answerer.run(GripsConfig(rounds=10, candidates=4, patience=3))
    assert not found.sentences
    assert len(answerer.asked) == 1 + 3
    assert answerer.n_attempts[0] == 1
    assert max(answerer.n_attempts) <= 4


def test_a_perfect_score_ends_the_search_at_once(catalogue: Catalogue) -> None:
    answerer = Answerer(catalogue, lambda text: 1.0)
    assert not answerer.run(GripsConfig()).sentences
    assert answerer.n_attempts == [1]


def test_a_search_depends_on_its_key_alone_and_tries_other_prompts_under_another(catalogue: Catalogue) -> None:
    def tried(user: str) -> list[Questions]:
        answerer = Answerer(catalogue, lambda text: len(text) % 7 / 10)
        answerer.run(GripsConfig(), key=(0, user))
        return answerer.asked

    assert tried("a") == tried("a")
    assert tried("a")[1] != tried("b")[1]


@pytest.mark.parametrize("user", ["a", "b", "c", "d"])
def test_whatever_is_tried_can_be_shown_and_is_a_change_of_the_best_so_far(catalogue: Catalogue, user: str) -> None:
    answerer = Answerer(catalogue, lambda text: sum(text.encode()) % 100 / 101)
    answerer.run(GripsConfig(rounds=30, patience=30), key=(0, user))
    assert len(answerer.asked) > 20
    for questions in answerer.asked:
        shown = [tuple(attempt.sentences.items()) for attempt in questions.attempts]
        assert len(set(shown)) == len(shown), "no prompt is tried twice in a round"
        for attempt in questions.attempts:
            for pattern, text in attempt.sentences.items():
                assert text.strip()
                check_sentence(pattern, text)


def test_a_deleted_phrase_can_come_back(catalogue: Catalogue) -> None:
    """Deleting pays at first and hurts later: without `add` the phrase would be lost."""
    calls = 0

    def fickle(text: str) -> float:
        nonlocal calls
        calls += 1
        return (0.9 if HARMFUL in text else 0.6) if calls > 40 else (0.4 if HARMFUL in text else 0.5)

    found = Answerer(catalogue, fickle).run(GripsConfig(rounds=60, patience=60))
    assert HARMFUL in text_of(found, catalogue)


def test_paraphrases_are_asked_for_once_and_only_where_somebody_can_be_asked(catalogue: Catalogue) -> None:
    answerer = Answerer(
        catalogue, lambda text: 0.9 if "PARAPHRASED" in text else 0.5, rewritten="PARAPHRASED, all of it."
    )
    found = answerer.run(GripsConfig(rounds=10, patience=10), rewrites=True)
    assert "PARAPHRASED, all of it." in found.sentences.values()
    asked = [text for questions in answerer.asked for text in questions.rewrites]
    assert len(asked) == len(set(asked)) > 0
    dropped = Answerer(catalogue, without_harm, rewritten=None)
    dropped.run(GripsConfig(rounds=10, patience=10), rewrites=True)
    alone = Answerer(catalogue, without_harm)
    alone.run(GripsConfig(rounds=10, patience=10))
    assert not any(questions.rewrites for questions in alone.asked)


def test_an_instance_wise_search_has_the_draws_of_its_user(catalogue: Catalogue) -> None:
    grips = Grips(catalogue=catalogue)
    first = next(grips.search(key=(0, "u"), n_history=5, rewrites=False))
    assert first.attempts == (Decision(spec=catalogue.manual_prompt),), "what a person would write is tried first"


@dataclass
class Task:
    """Training users whose rewards depend on the text alone."""

    catalogue: Catalogue
    max_trials: int | None = None
    trials: list[Trial] = field(default_factory=list)

    @property
    def user_ids(self) -> Sequence[str]:
        return [f"u{n}" for n in range(200)]

    def inputs(self, user_id: str) -> StateInputs:
        return StateInputs(history=(), step=0, history_length=1)

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        if self.max_trials is not None and len(self.trials) + len(trials) > self.max_trials:
            raise BudgetExceededError("calls")
        self.trials += trials
        return [without_harm(text_of(Decision(spec=t.spec, sentences=t.sentences), self.catalogue)) for t in trials]


def test_one_prompt_for_everybody_is_scored_on_the_same_users_within_the_calls(catalogue: Catalogue) -> None:
    task: PromptEvaluator = Task(catalogue)
    found = search_one_prompt(task, catalogue, calls=2010, seed=1, config=GripsConfig(rounds=40, patience=40))
    assert isinstance(task, Task)
    assert found.stopped == "finished"
    assert HARMFUL not in found.sentences["reasoning_guidance"]
    assert len(task.trials) <= 2010
    assert {trial.user_id for trial in task.trials} == set(task.user_ids[:10])


@pytest.mark.parametrize("max_trials", [0, 10, 400])
def test_a_spent_budget_gives_the_best_so_far(catalogue: Catalogue, max_trials: int) -> None:
    task = Task(catalogue, max_trials)
    found = search_one_prompt(task, catalogue, calls=2010, seed=1, config=GripsConfig(rounds=40, patience=40))
    assert found.stopped == "budget"
    assert len(task.trials) <= max_trials
    tried = {
        tuple(t.sentences.items()): without_harm(text_of(Decision(spec=t.spec, sentences=t.sentences), catalogue))
        for t in task.trials
    }
    assert tried.get(tuple(found.sentences.items()), 0.0) == max(tried.values(), default=0.0)
