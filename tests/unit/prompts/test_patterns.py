"""The pattern catalogue: what ships, and one clear line for everything that can be wrong with a user's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from promptailor.prompts.errors import CatalogueError
from promptailor.prompts.patterns import (
    DOMAIN_WORDS,
    PATTERNS,
    SENTENCE_PATTERNS,
    Sentence,
    dump_catalogue,
    load_catalogue,
)

CATALOGUE = load_catalogue()


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    return tmp_path / "own.yaml"


def role(text: str, sentence_id: str = "recommender") -> str:
    return f"role_playing: {{sentences: [{{id: {sentence_id}, text: '{text}'}}]}}"


def test_sizes_are_the_papers() -> None:
    assert [CATALOGUE.n_actions(pattern) for pattern in PATTERNS] == [3, 3, 9, 5]
    assert CATALOGUE.history_records.increments == (0, 1, 2)
    assert CATALOGUE.history_records.initial_length == 1
    assert CATALOGUE.history_records.max_length == 1 + 15 * 2  # fifteen steps
    assert len({s.subcategory for s in CATALOGUE.sentences("reasoning_guidance")}) == 6
    assert CATALOGUE.n_actions("user_profile") == 2**4


def test_every_output_format_says_how_its_answers_read() -> None:
    formats = CATALOGUE.sentences("output_format")
    assert all(sentence.separator for sentence in formats)
    assert Counter(sentence.titles for sentence in formats)[True] == 1


@pytest.mark.parametrize("domain", sorted(CATALOGUE.domains))
def test_sentences_are_filled_for_every_domain(domain: str) -> None:
    texts = [CATALOGUE.fill(s, domain) for pattern in SENTENCE_PATTERNS for s in CATALOGUE.sentences(pattern)]
    assert len(set(texts)) == len(texts)
    assert not any(set(text) & set("{}\n") for text in texts)
    assert set(CATALOGUE.words(domain)) == set(DOMAIN_WORDS)


def test_history_grows_by_the_papers_rule() -> None:
    pattern = CATALOGUE.history_records
    assert [pattern.next_length(1, action, available=50) for action in range(3)] == [1, 2, 3]
    assert pattern.next_length(5, 2, available=6) == 6
    assert pattern.next_length(30, 2, available=50) == pattern.max_length
    assert pattern.next_length(1, 2, available=0) == 0


def test_the_manual_prompt_names_its_sentences() -> None:
    spec = CATALOGUE.manual_prompt
    assert spec.role_playing is not None
    assert CATALOGUE.sentences("role_playing")[spec.role_playing].id == CATALOGUE.manual.role_playing
    assert spec.history_length == CATALOGUE.manual.history_length


def test_profile_subsets_start_with_none_shown() -> None:
    subsets = CATALOGUE.user_profile.subsets
    assert subsets[0] == ()
    assert len(set(subsets)) == len(subsets)
    assert subsets[-1] == CATALOGUE.user_profile.fields


def test_actions_of_earlier_editions_mean_the_same() -> None:
    older = CATALOGUE.user_profile.model_copy(update={"fields": ("gender", "age", "occupation")})
    assert CATALOGUE.user_profile.subsets[: len(older.subsets)] == older.subsets
    assert CATALOGUE.reads(CATALOGUE.digest)
    assert CATALOGUE.reads("9c1db7e93ac33480"), "what policies were trained with before profiles had a taste"
    assert not CATALOGUE.reads("other")


def test_an_own_file_changes_only_what_it_names(own_file: Path) -> None:
    words = ", ".join(f"{word}: my {word}" for word in DOMAIN_WORDS)
    own_file.write_text(f"{role('Just rank {items}.')}\ndomains: {{books: {{{words}}}}}", "utf-8")
    catalogue = load_catalogue(own_file)
    assert catalogue.fill(catalogue.sentences("role_playing")[0], "books") == "Just rank my items."
    assert catalogue.n_actions("role_playing") == 1
    assert catalogue.output_format == CATALOGUE.output_format
    assert set(catalogue.domains) == {*CATALOGUE.domains, "books"}
    assert catalogue.digest != CATALOGUE.digest
    assert not catalogue.editions, "earlier editions are of the built-in catalogue"


def test_the_digest_depends_on_the_content_alone(own_file: Path) -> None:
    own_file.write_text("{}", "utf-8")
    assert load_catalogue(own_file).digest == CATALOGUE.digest == load_catalogue().digest


def test_an_unknown_domain_lists_the_known_ones() -> None:
    with pytest.raises(CatalogueError, match=r"'wines' is unknown; known: .*movies"):
        CATALOGUE.words("wines")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (role("Like {foo}."), r"role_playing\.recommender: unknown placeholder \{foo\}; allowed: .*items"),
        (role("Like {}."), r"role_playing\.recommender: unknown placeholder"),
        (role("Like {item.title}."), r"role_playing\.recommender: unknown placeholder"),
        (role("Like {item!r}."), r"role_playing\.recommender: the placeholder \{item\} takes no format"),
        (role("Like {item:{items}}."), r"role_playing\.recommender: the placeholder \{item\} takes no format"),
        (role("Like {."), r"role_playing\.recommender: .*write \{\{"),
        (role("Like it.", "other"), r"manual\.role_playing: no sentence 'recommender'; there are \['other'\]"),
        (role("Like it.", "no"), r"role_playing\.sentences\.0\.id: .*string"),
        ("role_playing: {sentences: []}", r"role_playing\.sentences"),
        ("role_playing: {sentences: [{id: recommender}]}", r"role_playing\.sentences\.0\.text: Field required"),
        (
            "output_format: {sentences: [{id: lines, text: a}, {id: lines, text: b}]}",
            r"output_format: sentence id\(s\) \['lines'\] occur twice",
        ),
        ("refine: {text: Refine it.}", r"refine\.text: the placeholder \{sentence\} is required"),
        ("history_records: {initial_length: 1, increments: [-1], max_length: 9, text: a}", r"increments\.0"),
        ("user_profile: {fields: [salary], text: a, field_texts: {}}", r"user_profile\.fields: 'salary' is unknown"),
        ("user_profile: {fields: [age], text: a, field_texts: {}}", r"field_texts: no text for the field 'age'"),
        (
            "user_profile: {fields: [age], text: a, field_texts: {age: old}}",
            r"field_texts\.age: .*\{value\} is required",
        ),
        ("domains: {movies: {item: film}}", r"domain 'movies' lacks the word\(s\) field, interact"),
        ("domains: {books: 3}", r"domains\.books"),
        ("domains: [books]", r"domains: expected a mapping, found list"),
        ("schema_version: 2", r"schema_version"),
        ("role_plying: {}", r"role_plying"),
        ("1: 2", r"1: .*string"),
        ("- role_playing", r"expected a mapping of patterns, found list"),
        ("", r"expected a mapping of patterns, found NoneType"),
        ("role_playing: [", r"line 1"),
        ("\tx: 1", r"line 1"),
        ("? [a]\n: b", r"line 1"),
    ],
)
def test_a_wrong_file_gives_one_line_that_names_file_and_field(own_file: Path, content: str, message: str) -> None:
    own_file.write_text(content, "utf-8")
    with pytest.raises(CatalogueError, match=message) as error:
        load_catalogue(own_file)
    assert str(own_file) in str(error.value)
    assert "\n" not in str(error.value)


def test_extra_words_of_a_domain_are_refused(own_file: Path) -> None:
    words = ", ".join(f"{word}: x" for word in (*DOMAIN_WORDS, "colour"))
    own_file.write_text(f"domains: {{books: {{{words}}}}}", "utf-8")
    with pytest.raises(CatalogueError, match=r"domain 'books' has unknown word\(s\) colour"):
        load_catalogue(own_file)


def test_files_that_cannot_be_read_are_named(tmp_path: Path, own_file: Path) -> None:
    own_file.write_bytes(b"role_playing: \xff\xfe")
    for path, message in ((own_file, "utf-8"), (tmp_path / "none.yaml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(CatalogueError, match=message) as error:
            load_catalogue(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_added_sentences_leave_the_others_in_their_places(own_file: Path) -> None:
    grown = CATALOGUE.extended({"role_playing": [Sentence(id="clerk", text="You sell {items}.")]})
    again = grown.extended({"output_format": [Sentence(id="spoken", text="Say the numbers, best first.")]})
    own_file.write_text(dump_catalogue(again), "utf-8")
    loaded = load_catalogue(own_file)
    assert loaded == again
    assert loaded.digest == again.digest
    assert len({CATALOGUE.digest, grown.digest, again.digest}) == 3
    assert [s.id for s in loaded.sentences("role_playing")] == ["expert", "recommender", "psychologist", "clerk"]
    assert loaded.as_of(CATALOGUE.digest).digest == CATALOGUE.digest
    assert loaded.as_of(grown.digest).digest == grown.digest
    assert all(loaded.reads(c.digest) for c in (CATALOGUE, grown, again))
    assert all(loaded.reads(digest) for digest in CATALOGUE.editions)
    assert not CATALOGUE.reads(grown.digest)


def test_a_sentence_is_added_once_and_without_unknown_words() -> None:
    with pytest.raises(ValueError, match="expert"):
        CATALOGUE.extended({"role_playing": [Sentence(id="expert", text="You sell {items}.")]})
    with pytest.raises(ValueError, match="shelf"):
        CATALOGUE.extended({"role_playing": [Sentence(id="clerk", text="You fill the {shelf}.")]})
