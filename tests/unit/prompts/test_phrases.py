"""Phrases are cut by rules that stand in a file, and edits keep every sentence whole enough to be shown."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, SentencePattern, check_sentence, load_catalogue
from promptailor.prompts.phrases import Draft, join_phrases, refill, split_phrases

CATALOGUE = load_catalogue()
TEMPLATES = st.fixed_dictionaries(
    {pattern: st.sampled_from([s.text for s in CATALOGUE.sentences(pattern)]) for pattern in SENTENCE_PATTERNS}
)


def words(draft: Draft) -> Counter[str]:
    shown = Counter(word for text in draft.texts.values() for word in text.split())
    return shown + Counter(word for _, phrase in draft.deleted for word in phrase.split())


def edited(draft: Draft, choose: st.DataObject) -> Draft:
    """Make one edit that is possible."""
    pattern: SentencePattern = choose.draw(st.sampled_from(SENTENCE_PATTERNS))
    places = st.integers(0, len(draft.sentences[pattern]) - 1)
    kind = choose.draw(st.sampled_from(["delete", "swap", "add"]))
    if kind == "add" and draft.deleted:
        number = choose.draw(st.integers(0, len(draft.deleted) - 1))
        return draft.add(number, choose.draw(st.integers(0, len(draft.sentences[draft.deleted[number][0]]))))
    if kind == "delete" and len(draft.sentences[pattern]) > 1:
        return draft.delete(pattern, choose.draw(places))
    return draft.swap(pattern, choose.draw(places), choose.draw(places))


@given(templates=TEMPLATES, n_edits=st.integers(0, 25), choose=st.data())
def test_no_sequence_of_edits_empties_a_sentence_or_damages_a_placeholder(
    templates: dict[SentencePattern, str], n_edits: int, choose: st.DataObject
) -> None:
    draft = start = Draft.of(templates)
    for _ in range(n_edits):
        draft = edited(draft, choose)
        assert set(draft.texts) == set(SENTENCE_PATTERNS)
        for pattern, text in draft.texts.items():
            assert text.strip()
            check_sentence(pattern, text)
            assert "{" not in text.format_map(CATALOGUE.words("movies"))
        assert words(draft) == words(start), "what is not shown waits among the deleted phrases"
    assert start == Draft.of(templates), "edits make new drafts"


@given(templates=TEMPLATES, choose=st.data())
def test_edits_are_undone_by_edits(templates: dict[SentencePattern, str], choose: st.DataObject) -> None:
    draft = Draft.of(templates)
    pattern = choose.draw(st.sampled_from([p for p, phrases in draft.sentences.items() if len(phrases) > 1]))
    first, second = (choose.draw(st.integers(0, len(draft.sentences[pattern]) - 1)) for _ in range(2))
    assert draft.delete(pattern, first).add(0, first) == draft
    assert draft.swap(pattern, first, second).swap(pattern, second, first) == draft


@given(st.text(min_size=1).filter(str.strip))
def test_any_text_is_cut_without_loss(text: str) -> None:
    phrases = split_phrases(text)
    assert phrases
    assert join_phrases(phrases).split() == text.split()


def test_phrases_end_at_punctuation_and_begin_at_opening_words() -> None:
    assert split_phrases("Rank these candidates according to my complete history, every {item} counting the same.") == (
        "Rank these candidates",
        "according to my complete history,",
        "every {item} counting",
        "the same.",
    )


@pytest.mark.parametrize("pattern", SENTENCE_PATTERNS)
def test_every_sentence_of_the_catalogue_can_lose_a_phrase(catalogue: Catalogue, pattern: SentencePattern) -> None:
    assert all(len(split_phrases(sentence.text)) > 1 for sentence in catalogue.sentences(pattern))


def test_a_rewrite_becomes_a_template_by_its_own_placeholders_only(catalogue: Catalogue) -> None:
    movies = catalogue.words("movies")
    template = "Rank the {items} I {interacted}, by {{taste}}."
    rewritten = template.format_map(movies).replace("Rank", "Watch and order")
    again = refill(rewritten, template, movies)
    assert again == "Watch and order the {items} I {interacted}, by {{taste}}."
    assert again.format_map(catalogue.words("music")) == "Watch and order the artists I played, by {taste}."
    assert refill("Movies {first}.", "Rank {items}.", movies) == "{items} {{first}}."
    assert refill("Movies first.", "Rank them.", movies) == "Movies first."
