"""Parsing: total, one rule, and the identity on every well-formed answer."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptailor.prompts.assemble import clean_title
from promptailor.prompts.domain import Item, ParseReport
from promptailor.prompts.parse import ParsedRanking, parse_ranking
from promptailor.prompts.patterns import Sentence, load_catalogue

OUTPUT_FORMATS = load_catalogue().sentences("output_format")

TITLES = (
    "Toy Story",
    "Heat",
    "Alien",
    "Aliens",
    "Good, the Bad and the Ugly, The (1966)",
    "1984",
    "12 Monkeys",
    "Amélie",
)
NASTY_TITLES = (
    ("Alien", "Aliens", "Alien 3", "Alien: Resurrection", "The Alien"),
    ("1", "2", "3", "1984", "8 1/2"),
    ("3", "1", "2"),
    ("1. Heat", "Heat", "2. 1. Heat", "3", "- Heat"),
    ("Who?", "Who", "who!", "!!!", "???", "+/-"),
    ("Same", "Same", "Same", "Other"),
    ("Hello, Dolly!", "Dolly!", "Hello", "Niagara, Niagara", "Niagara"),
    ("[3, 1, 2]", '{"1": 2}', "1 > 2 > 3", "```json", "</think>"),
    ("Ａlien", "Alien", "Café", "Cafe\u0301", "CAFE", "ﬁn"),
    ("第一", "Ландыши", "٣", "İstanbul", "ß", "\u200b", "\u0301"),
    ("Here is the ranking:", "Rank 1", "Candidate 2", "Number 9", "#1"),
    ("x" * 100_000, "x" * 100_000 + "y", "x"),
)


def items(titles: tuple[str, ...] | list[str]) -> tuple[Item, ...]:
    return tuple(Item(item_id=f"i{n}", title=title) for n, title in enumerate(titles))


def parse(text: str, titles: tuple[str, ...] = TITLES) -> list[int]:
    """The ranking as the candidates' numbers, for legible expectations."""
    return [index + 1 for index in parse_ranking(text, items(titles)).order]


def repairs(text: str, titles: tuple[str, ...] = TITLES) -> tuple[int, int, int]:
    report = parse_ranking(text, items(titles)).report
    return report.n_unknown, report.n_duplicate, report.n_missing


def render(order: list[int], shown: tuple[Item, ...], output_format: Sentence) -> str:
    """A well-formed answer in an output format."""
    assert output_format.separator is not None
    entries = [f"{i + 1}. {clean_title(shown[i].title)}" if output_format.titles else str(i + 1) for i in order]
    return output_format.separator.join(entries)


def assert_permutation(parsed: ParsedRanking, n: int) -> None:
    assert sorted(parsed.order) == list(range(n))
    assert 0 <= parsed.report.n_missing <= n


@st.composite
def rankings(draw: st.DrawFn, titles: st.SearchStrategy[list[str]]) -> tuple[list[int], tuple[Item, ...]]:
    shown = items(draw(titles))
    return draw(st.permutations(range(len(shown)))), shown


any_titles = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=12)
nasty_titles = st.sampled_from([list(titles) for titles in NASTY_TITLES])


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS, ids=lambda sentence: sentence.id)
@given(case=rankings(any_titles | nasty_titles))
@settings(max_examples=150, deadline=None)
def test_a_well_formed_answer_is_read_as_it_stands(
    output_format: Sentence, case: tuple[list[int], tuple[Item, ...]]
) -> None:
    order, shown = case
    parsed = parse_ranking(render(order, shown, output_format), shown)
    assert list(parsed.order) == order
    assert parsed.report.valid


@given(case=rankings(st.permutations(["Alien", "Aliens", "Alien 3", "12 Monkeys", "1984", "Hello, Dolly!", "Amélie"])))
@pytest.mark.parametrize("joiner", ["\n", ", ", " > ", "\n\n", "; "])
@settings(max_examples=40, deadline=None)
def test_bare_titles_are_read(joiner: str, case: tuple[list[int], tuple[Item, ...]]) -> None:
    order, shown = case
    assert list(parse_ranking(joiner.join(shown[i].title for i in order), shown).order) == order


@given(case=rankings(st.permutations(["Alien", "Aliens", "Alien 3", "12 Monkeys", "1984", "Hello, Dolly!", "Amélie"])))
@pytest.mark.parametrize(
    "template", ["{rank}. {title}", "**{rank}) {title}**", "{rank}. [{n}] {title}", "| {rank} | {title} |"]
)
@settings(max_examples=40, deadline=None)
def test_ranks_in_front_of_titles_are_not_taken_for_numbers(
    template: str, case: tuple[list[int], tuple[Item, ...]]
) -> None:
    order, shown = case
    lines = [template.format(rank=rank, n=i + 1, title=shown[i].title) for rank, i in enumerate(order, 1)]
    assert list(parse_ranking("\n".join(lines), shown).order) == order


@given(text=st.text() | st.text(alphabet="0123456789 .,>[]{}\"'\n-*#:()abTHE<>|/\\u"))
@settings(max_examples=400, deadline=None)
def test_any_text_gives_a_permutation(text: str) -> None:
    for titles in (TITLES, NASTY_TITLES[1], ("only",)):
        assert_permutation(parse_ranking(text, items(titles)), len(titles))


@given(
    parts=st.lists(
        st.sampled_from([*TITLES, "1", "2", "9", ". ", ", ", "\n", " > ", "- ", "{", '"title": ', "]", "(", ":"])
    )
)
@settings(max_examples=300, deadline=None)
def test_any_jumble_of_titles_numbers_and_marks_gives_a_permutation(parts: list[str]) -> None:
    assert_permutation(parse_ranking("".join(parts), items(TITLES)), len(TITLES))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("3\n1\n2", [3, 1, 2]),
        ("3, 1,2", [3, 1, 2]),
        ("3 1 2", [3, 1, 2]),
        ("3 > 1 > 2", [3, 1, 2]),
        ("3 -> 1 -> 2", [3, 1, 2]),
        ("3.\n1.\n2.", [3, 1, 2]),
        ("3)\n1)\n2)", [3, 1, 2]),
        ("#3 #1 #2", [3, 1, 2]),
        ("[3] > [1] > [2]", [3, 1, 2]),
        ("- 3\n- 1\n- 2", [3, 1, 2]),
        ("Candidate 3\nCandidate 1", [3, 1]),
        ("３，１，２", [3, 1, 2]),
        ("以下是排名：3，1，2", [3, 1, 2]),
        ("1. 7\n2. 3\n3. 1", [7, 3, 1]),
        ("1) Candidate 7\n2) Candidate 3", [7, 3]),
        ("Sure! Here are the top 5 picks: 3, 1, and 2. Enjoy the 8 movies!", [3, 1, 2]),
    ],
)
def test_numbers(text: str, start: list[int]) -> None:
    assert parse(text)[: len(start)] == start
    assert repairs(text) == (0, 0, len(TITLES) - len(start))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("heat\nTOY  STORY\naliens\namelie", [2, 1, 4, 8]),
        ("1984\n12 Monkeys\nHeat", [6, 7, 2]),
        ("1. Heat\n2. Toy Story\n3. Aliens\n4. Alien", [2, 1, 4, 3]),
        ("3. Alien\n1. Toy Stroy\n2. Heet", [3, 1, 2]),
        ("The Good, the Bad and the Ugly\nHeat", [5, 2]),
        ("1. The Good, the Bad and the Ugly (1966)\n2. Heat", [5, 2]),
        ("**1. Heat** - a crime film, better than Alien\n**2. Alien** - scary\n", [2, 3]),
        ("1. **Heat**: slow\n   - A crime classic\n2. **Alien**: scary\n   - Like Heat in space", [2, 3]),
        ("1. Heat, 2. Toy Story, 3. Alien", [2, 1, 3]),
        ("Heat, Alien and Toy Story", [2, 3, 1]),
        ("Heat (3), Alien (1), 1984 (2)", [2, 3, 6]),
        ("| Rank | Title |\n|---|---|\n| 1 | Heat |\n| 2 | Alien |", [2, 3]),
        ("I'd watch Heat first, followed by Alien and lastly Toy Story.", [2, 3, 1]),
        ('"Heat"\n“Alien”\n`1984`', [2, 3, 6]),
        ("1984, 3, 2", [6, 3, 2]),
    ],
)
def test_titles(text: str, start: list[int]) -> None:
    assert parse(text)[: len(start)] == start


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "answer",
    [
        [4, 3, 6],
        ["Aliens", "Alien", "1984"],
        ["4. Aliens", "3. Alien", "6. 1984"],
        {"ranking": [4, 3, 6], "explanation": "Heat, as I said, is slow."},
        {"1": "Aliens", "2": "Alien", "3": "1984"},
        [{"number": 4, "title": "Aliens"}, {"number": 3, "title": "Alien"}, {"number": 6, "title": "1984"}],
        [{"rank": 1, "number": 4, "score": 0.9}, {"rank": 2, "number": 3, "score": 0.5}, {"rank": 3, "number": 6}],
    ],
)
def test_json(answer: object, indent: int | None) -> None:
    text = json.dumps(answer, indent=indent)
    for framed in (text, f"Here is the JSON:\n```json\n{text}\n```\nAnything else?"):
        assert parse(framed)[:3] == [4, 3, 6]


def test_json_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    text = json.dumps([{"rank": r, "number": n} for r, n in enumerate([4, 3, 6, 1], 1)])
    assert parse(text[:-20])[:3] == [4, 3, 6]


def test_escapes_in_json_are_read() -> None:
    assert parse(json.dumps(["Amélie", "Heat"]))[:2] == [8, 2]


def test_of_several_lists_the_last_complete_one_is_the_answer() -> None:
    draft, final = "\n".join("12345678"), "\n".join("87654321")
    assert parse(f"First draft:\n{draft}\n\nFinal answer:\n{final}") == [8, 7, 6, 5, 4, 3, 2, 1]
    assert parse("I first thought 3, 1, 2.\nBut the better order is 2, 1, 3.")[:3] == [2, 1, 3]
    assert parse(f"Step 1: think\nStep 2: think more\n\n{final}") == [8, 7, 6, 5, 4, 3, 2, 1]


def test_parts_of_one_list_are_joined() -> None:
    assert parse("Most likely:\n4\n3\nLess likely:\n2\n1")[:4] == [4, 3, 2, 1]


def test_thinking_counts_only_where_no_answer_follows() -> None:
    thinking = "<think>8, 7, 6, 5, 4, 3, 2, 1 perhaps</think>"
    assert parse(f"{thinking}\n2\n1")[:2] == [2, 1]
    assert parse(f"{thinking}\n")[:2] == [8, 7]


def test_repairs_are_counted() -> None:
    everything = "8\n7\n6\n5\n4\n3\n2\n1"
    assert repairs(everything) == (0, 0, 0)
    assert repairs(everything + "\n1\n99") == (1, 1, 0)
    assert repairs("3\n3\n3\n1") == (0, 2, 6)
    assert repairs("Heat\nThe Matrix\nAlien\nI hope this helps") == (1, 0, 6)
    assert repairs("1. The Matrix\n2. Inception") == (2, 0, 8)
    assert repairs("9, 10, 11") == (3, 0, 8)
    assert repairs("") == repairs("I cannot rank these 8 movies.") == (0, 0, 8)


def test_missing_candidates_follow_in_shown_order() -> None:
    assert parse("5\n2") == [5, 2, 1, 3, 4, 6, 7, 8]
    assert parse("No.") == list(range(1, 9))


def test_equal_titles_are_told_apart_by_number() -> None:
    titles = ("Same", "Other", "Same")
    assert parse("3. Same\n2. Other\n1. Same", titles) == [3, 2, 1]
    assert parse("Same\nSame\nOther", titles) == [1, 3, 2]


def test_a_title_inside_another_one_does_not_win() -> None:
    assert parse("Aliens\nAlien", ("Alien", "Aliens")) == [2, 1]
    assert parse("1. Alien 3\n2. Alien", ("Alien", "Alien 3")) == [2, 1]
    assert repairs("Alien 4\nAlien 3", ("Alien", "Alien 3")) == (0, 0, 1)


def test_the_title_tests_fail_when_titles_are_found_as_substrings_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published rerankers look each title up in the answer with `in` or `find`."""

    def by_first_mention(text: str, shown: Sequence[Item]) -> ParsedRanking:
        order = sorted(range(len(shown)), key=lambda i: text.find(shown[i].title) % (len(text) + 1))
        return ParsedRanking(order=tuple(order), report=ParseReport())

    monkeypatch.setitem(globals(), "parse_ranking", by_first_mention)
    with pytest.raises(AssertionError):
        test_a_title_inside_another_one_does_not_win()
    with pytest.raises(AssertionError):
        test_bare_titles_are_read("\n")


def test_the_permutation_test_fails_when_what_is_missing_is_dropped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = parse_ranking

    def without_repair(text: str, shown: Sequence[Item]) -> ParsedRanking:
        parsed = complete(text, shown)
        return replace(parsed, order=parsed.order[: len(shown) - parsed.report.n_missing])

    monkeypatch.setitem(globals(), "parse_ranking", without_repair)
    with pytest.raises(AssertionError):
        test_any_text_gives_a_permutation()


@pytest.mark.parametrize("label", ["3. Same", "Heat"])
def test_runaway_repetition_keeps_the_first_order(label: str) -> None:
    assert parse("2\n8\n1\n" * 1000)[:3] == [2, 8, 1]
    assert_permutation(parse_ranking(f"{label}\n" * 1000, items(TITLES)), len(TITLES))


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "\n",
        "1 2 3 ",
        "3\n1\n",
        "the ",
        "the the\n",
        "[",
        '{"a":',
        '"',
        "a,",
        "(",
        "1. x\n",
        "Alien, ",
        "- ",
        "é",
        "#",
        ":",
        ": ",
        " \n",
        "( ",
        "' ",
        "\\u0041",
    ],
)
def test_a_megabyte_takes_less_than_a_second(unit: str) -> None:
    shown = items([f"the the the {n}" for n in range(50)] + list(TITLES))
    for end in ("", "x"):
        text = unit * (1_000_000 // len(unit)) + end
        start = time.process_time()
        assert_permutation(parse_ranking(text, shown), len(shown))
        assert time.process_time() - start < 1.0


def test_a_typical_answer_costs_well_under_a_tenth_of_a_millisecond() -> None:
    shown = items([f"Title {n}" for n in range(10)])
    start = time.process_time()
    for _ in range(1000):
        parse_ranking("3\n1\n2\n4\n5\n6\n7\n8\n10\n9", shown)
    assert (time.process_time() - start) / 1000 < 1e-4
