"""Refinement guards: a clean rewrite is used, anything else is dropped with its reason."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.prompts.patterns import SENTENCE_PATTERNS, load_catalogue
from promptailor.prompts.refine import ALWAYS_ALLOWED_LENGTH, MIN_COSINE, accept_refinement, refine_messages

CATALOGUE = load_catalogue()
MOVIES = CATALOGUE.words("movies")
INSTRUCTION = CATALOGUE.refine.text
ORIGINAL = "Rank these candidates according to the single movie I watched most recently."
REWRITE = "Rank these candidates by how well they fit the last movie I watched."


class FixedEncoder:
    """Puts every pair of different texts at one cosine."""

    dimension = 2

    def __init__(self, cosine: float) -> None:
        self.cosine = cosine
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        self.seen += texts
        return [[1.0, 0.0], [self.cosine, (1 - self.cosine**2) ** 0.5]]


def reason(rewritten: str, original: str = ORIGINAL) -> str | None:
    verdict = accept_refinement(original, rewritten, words=MOVIES, encoder=None, instruction=INSTRUCTION)
    assert (verdict.text is None) == (verdict.reason is not None)
    return verdict.reason


def accepted(rewritten: str, original: str = ORIGINAL) -> str | None:
    return accept_refinement(original, rewritten, words=MOVIES, encoder=None, instruction=INSTRUCTION).text


def test_the_refiner_is_asked_about_the_sentence() -> None:
    (message,) = refine_messages("Keep {this} as it is.", CATALOGUE)
    assert message.role == "user"
    assert message.content.endswith("Keep {this} as it is.")


@pytest.mark.parametrize(
    "answer",
    [
        REWRITE,
        f"  {REWRITE}\n",
        f'"{REWRITE}"',
        f"“{REWRITE}”",
        f"**{REWRITE}**",
        f"```\n{REWRITE}\n```",
        f"Here is the refined sentence: {REWRITE}",
        f'Sure! Here\'s a better version:\n\n"{REWRITE}"',
        f"Refined sentence: {REWRITE}",
        f"<think>What would help?</think>\n{REWRITE}",
    ],
)
def test_wrapping_is_stripped(answer: str) -> None:
    assert accepted(answer) == REWRITE


def test_an_unchanged_sentence_is_accepted_without_asking_the_encoder() -> None:
    encoder = FixedEncoder(0.0)
    verdict = accept_refinement(ORIGINAL, f'"{ORIGINAL}"', words=MOVIES, encoder=encoder)
    assert (verdict.text, verdict.reason) == (ORIGINAL, None)
    assert encoder.seen == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "empty"),
        ('""', "empty"),
        (" \n ", "empty"),
        (f"{REWRITE}\nNote: I made it shorter.", "multi_line"),
        (f"{REWRITE}\u2028Note", "multi_line"),
        (REWRITE + "\x07", "unsafe_characters"),
        (REWRITE + "\u202e", "unsafe_characters"),
        (REWRITE + "</candidates>", "unsafe_characters"),
        (f"{REWRITE} So that a language model gives better recommendations.", "leaked_instruction"),
        (f"Answer with the sentence only: {REWRITE}", "leaked_instruction"),
        ("Rank these candidates by the last {item} and the movie before it.", "changed_placeholders"),
        ("Rank these candidates by what I watched last, please.", "lost_item_noun"),
        ("By last movie.", "too_short"),
        (REWRITE + " Think about this movie well." * 6, "too_long"),
    ],
)
def test_faults_are_named(answer: str, expected: str) -> None:
    assert reason(answer) == expected


def test_either_number_of_the_item_noun_will_do() -> None:
    assert accepted("Rank these candidates: of the movies I watched, the last alone counts.") is not None
    assert accepted("Rank them by what I like best of all.", "Rank these candidates by what I like.") is not None


def test_short_sentences_may_grow() -> None:
    assert accepted("word " * (ALWAYS_ALLOWED_LENGTH // 5), "Rank.") is not None
    assert reason("word " * (ALWAYS_ALLOWED_LENGTH // 5 + 1), "Rank.") == "too_long"


def test_the_brackets_of_the_sentence_itself_are_allowed() -> None:
    original = "Write the ranking as one chain of numbers: number > number > number"
    assert accepted("Give the ranking as one chain, like this: number > number > number", original) is not None


def test_a_sentence_that_reads_like_an_introduction_keeps_it() -> None:
    original = "Here is how to answer: one number per line."
    rewrite = "Here is how to write the answer: a single number on each line."
    assert accepted(rewrite, original) == rewrite


@pytest.mark.parametrize(("cosine", "kept"), [(MIN_COSINE + 0.01, True), (MIN_COSINE - 0.01, False), (-1.0, False)])
def test_the_meaning_has_to_stay(cosine: float, *, kept: bool) -> None:
    verdict = accept_refinement(ORIGINAL, REWRITE, words=MOVIES, encoder=FixedEncoder(cosine))
    assert (verdict.text == REWRITE, verdict.reason) == (kept, None if kept else "changed_meaning")


@pytest.mark.parametrize("domain", sorted(CATALOGUE.domains))
def test_every_catalogue_sentence_passes_its_own_guards(domain: str) -> None:
    words = CATALOGUE.words(domain)
    for pattern in SENTENCE_PATTERNS:
        for sentence in CATALOGUE.sentences(pattern):
            original = CATALOGUE.fill(sentence, domain)
            answer = f'Here is the refined sentence: "{original.removesuffix(".")}, please."'
            verdict = accept_refinement(original, answer, words=words, encoder=None, instruction=INSTRUCTION)
            assert verdict.text == f"{original.removesuffix('.')}, please."


@given(answer=st.text() | st.text(alphabet="\"'`*<>{}:\n Refined sentence"))
def test_any_answer_gives_one_safe_line_or_a_reason(answer: str) -> None:
    verdict = accept_refinement(ORIGINAL, answer, words=MOVIES, encoder=None, instruction=INSTRUCTION)
    assert (verdict.text is None) != (verdict.reason is None)
    if verdict.text is not None:
        assert verdict.text == verdict.text.strip() != ""
        assert len(verdict.text.splitlines()) == 1
        assert not set(verdict.text) & set("<>{}")
