from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptailor.evals.datasets import Dataset, known_datasets, load_dataset, load_spec
from promptailor.prompts.domain import UserProfile
from promptailor.prompts.errors import DataError

# user a has a tie at time 2 that must stay in file order (i3 before i1); user b has i1 twice.
INTERACTIONS = [
    ("a", "i2", "1"),
    ("b", "i1", "9"),
    ("a", "i3", "2"),
    ("a", "i1", "2"),
    ("b", "i3", "4"),
    ("b", "i1", "3"),
    ("c", "i3", "5"),
]
ITEMS = [("i1", "Tin Drum, The (1979)", "Drama War"), ("i2", "Alien &amp; Co", ""), ("i3", "  1984   (1984)", "Drama")]
USERS = [("a", "F", "25"), ("b", "M", ""), ("z", "M", "1")]

SPEC: dict[str, Any] = {
    "name": "toy",
    "domain": "movies",
    "folder": "Toy",
    "time": "global",
    "k_core": 0,
    "unescape_html": True,
    "title_cleanup": [
        {"pattern": r" \(\d{4}\)$", "replacement": ""},
        {"pattern": "^(.+), The$", "replacement": r"The \1"},
    ],
    "layouts": [
        {
            "name": "atomic",
            "interactions": {"file": "toy.inter"},
            "items": {
                "file": "toy.item",
                "title": ["title", "movie_title"],
                "year": "movie_title",
                "categories": {"column": "genre", "separator": " "},
            },
            "users": {
                "file": "toy.user",
                "gender": "gender",
                "age": "age",
                "values": {"gender": {"F": "female"}, "age": {"25": "25-34", "1": None}},
            },
        }
    ],
}


def atomic(path: Path, header: str, rows: Sequence[tuple[str, ...]], separator: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in [header, *(separator.join(row) for row in rows)]), "utf-8")


def write_toy(folder: Path) -> None:
    atomic(folder / "toy.inter", "user_id:token\titem_id:token\ttimestamp:float", INTERACTIONS)
    atomic(folder / "toy.item", "item_id:token\tmovie_title:token_seq\tgenre:token_seq", ITEMS)
    atomic(folder / "toy.user", "user_id:token\tgender:token\tage:token", USERS)


def spec_file(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes), "utf-8")
    return str(path)


def load(tmp_path: Path, **changes: Any) -> Dataset:
    return load_dataset(load_spec(spec_file(tmp_path, **changes)), tmp_path)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_toy(tmp_path / "Toy")
    return tmp_path


def test_sequences_are_in_time_order_with_ties_in_file_order(toy: Path) -> None:
    dataset = load(toy)
    assert dataset.sequences["a"] == ("i2", "i3", "i1")
    assert dataset.times["a"] == (1.0, 2.0, 2.0)


def test_a_repeat_counts_once_at_its_first_time(toy: Path) -> None:
    dataset = load(toy)
    assert dataset.sequences["b"] == ("i1", "i3")
    assert dataset.n_repeats == 1


def test_without_a_time_column_rows_stay_in_file_order(toy: Path) -> None:
    layout = SPEC["layouts"][0] | {"interactions": {"file": "toy.inter", "timestamp": None}}
    dataset = load(toy, layouts=[layout], time="none")
    assert dataset.sequences["b"] == ("i1", "i3")
    assert dataset.sequences["a"] == ("i2", "i3", "i1")


def rated(folder: Path, ratings: Sequence[str]) -> Dataset:
    rows = [(*row, rating) for row, rating in zip(INTERACTIONS, ratings, strict=True)]
    atomic(folder / "Toy" / "toy.inter", "user_id\titem_id\ttimestamp\tstars", rows)
    layout = SPEC["layouts"][0] | {"interactions": {"file": "toy.inter", "rating": "stars"}}
    return load(folder, layouts=[layout])


def test_ratings_stay_with_their_interactions_through_sorting_and_repeats(toy: Path) -> None:
    without = load(toy)
    assert without.ratings == {}
    dataset = rated(toy, ["5", "1", "4", "3", "2.5", "4", "1"])
    assert dataset.ratings == {"a": (5.0, 4.0, 3.0), "b": (4.0, 2.5), "c": (1.0,)}  # b's first rating of i1 was 4
    assert dataset.digest == without.digest


def test_a_rating_that_is_no_number_names_its_row(toy: Path) -> None:
    with pytest.raises(DataError, match="data row 3: rating 'good' is no number"):
        rated(toy, ["5", "1", "good", "3", "2", "4", "1"])


def test_titles_categories_and_years_are_cleaned_by_the_rules(toy: Path) -> None:
    dataset = load(toy)
    assert [item.title for item in dataset.items.values()] == ["The Tin Drum", "Alien & Co", "1984"]
    assert dataset.items["i1"].categories == ("Drama", "War")
    assert dataset.items["i2"].categories == ()
    assert dataset.years == {"i1": 1979, "i3": 1984}


def test_profiles_are_decoded_and_only_of_users_with_interactions(toy: Path) -> None:
    dataset = load(toy)
    assert dataset.profiles.keys() == {"a", "b"}
    assert (dataset.profiles["a"].gender, dataset.profiles["a"].age) == ("female", "25-34")
    assert (dataset.profiles["b"].gender, dataset.profiles["b"].age) == ("M", None)


def test_training_sequences_lack_the_last_two_items_of_every_user(toy: Path) -> None:
    assert load(toy).training_sequences() == {"a": ("i2",), "b": (), "c": ()}


def test_k_core_repeats_until_nothing_more_is_dropped(toy: Path) -> None:
    core = [("p", "i1", "1"), ("p", "i2", "2"), ("q", "i1", "1"), ("q", "i2", "2")]
    # i4 is alone, without it r is, without r i3 is, and only then s: three rounds.
    chain = [("r", "i4", "1"), ("r", "i3", "2"), ("s", "i3", "1"), ("s", "i1", "2")]
    atomic(toy / "Toy" / "toy.inter", "user_id\titem_id\ttimestamp", core + chain)
    dataset = load(toy, k_core=2)
    assert dataset.sequences == {"p": ("i1", "i2"), "q": ("i1", "i2")}
    assert dataset.items.keys() == {"i1", "i2"}
    with pytest.raises(DataError, match="no interaction is left after the 3-core"):
        load(toy, k_core=3)


def test_digest_is_of_the_content_alone(toy: Path) -> None:
    digest = load(toy).digest
    assert load(toy, about="another", split_seed=5).digest == digest
    assert load(toy, title_cleanup=[]).digest != digest
    atomic(
        toy / "Toy" / "toy.inter",
        "user_id\titem_id\ttimestamp",
        [*INTERACTIONS[:2], ("a", "i1", "2"), *INTERACTIONS[4:]],
    )
    assert load(toy).digest != digest


def test_folder_and_files_are_found_in_any_case(tmp_path: Path) -> None:
    write_toy(tmp_path / "TOY")
    (tmp_path / "TOY" / "toy.item").rename(tmp_path / "TOY" / "Toy.ITEM")
    assert load(tmp_path).layout == "atomic"


def other_layout(**tables: Any) -> list[dict[str, Any]]:
    return [{"name": "other", **tables}]


def test_the_first_complete_edition_is_read(toy: Path) -> None:
    absent = SPEC["layouts"][0] | {"name": "absent", "interactions": {"file": "u.data"}}
    assert load(toy, layouts=[absent, *SPEC["layouts"]]).layout == "atomic"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("toy.inter", None, r"Toy lacks toy\.inter; put the files there"),
        ("toy.item", None, r"Toy lacks toy\.item"),
        ("toy.inter", "user_id\titem_id\ttimestamp\n", "no interaction in it"),
        ("toy.inter", "user_id\titem_id\ttimestamp\na\ti1\t1\na\ti2\n", r"data row 2: 2 field\(s\), expected 3"),
        ("toy.inter", "user_id\titem_id\ttimestamp\na\ti1\tsoon\n", "data row 1: timestamp 'soon' is no number"),
        ("toy.inter", "user_id\titem_id\ttimestamp\na\ti1\tinf\n", "timestamp 'inf' is no number"),
        ("toy.inter", "user_id\titem_id\ttimestamp\na\t\t1\n", "data row 1: the item_id is empty"),
        ("toy.inter", "user_id\titem_id\ttimestamp\na\ti9\t1\n", r"no row for item 'i9' \(1 interacted"),
        ("toy.item", "item_id\ttitle\tgenre\ni1\t\tx\ni2\tB\tx\ni3\tC\tx\n", "title of item 'i1' is empty"),
        ("toy.item", "item_id\ttitle\tgenre\ni1\tA\tx\ni1\tB\tx\n", "item 'i1' has two rows"),
        ("toy.item", "item_id\tname\tgenre\ni1\tA\tx\n", "no column 'title' or 'movie_title'"),
    ],
)
def test_bad_files_are_one_line_errors(toy: Path, file: str, content: str | None, message: str) -> None:
    if content is None:
        (toy / "Toy" / file).unlink()
    else:
        (toy / "Toy" / file).write_text(content, "utf-8")
    layout = SPEC["layouts"][0]
    layout = layout | {"items": {k: v for k, v in layout["items"].items() if k != "year"}}
    with pytest.raises(DataError, match=message) as error:
        load(toy, layouts=[layout])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain": "cheese"}, "domain 'cheese' is unknown; known: beauty"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"time": "sometimes"}, "time: Input should be"),
        ({"name": "../x"}, r"name: '\.\./x': use letters"),
        ({"title_cleanup": [{"pattern": "(", "replacement": ""}]}, "title_cleanup.0: .*missing \\)"),
        ({"title_cleanup": [{"pattern": "x", "replacement": r"\1"}]}, "title_cleanup.0: .*invalid group reference"),
        (
            {"sources": [{"name": "x", "kind": "zip", "location": "u", "sha256": "1", "members": ["a"]}]},
            "sources.0.sha256",
        ),
    ],
)
def test_bad_specs_are_one_line_errors(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load_spec(spec_file(tmp_path, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("item_table", "message"),
    [
        ({"file": "i", "encoding": "latin-99"}, "'latin-99' is no text encoding"),
        ({"file": "i", "categories": {}}, "give either `column` or `flags`"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, item_table: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_spec(spec_file(tmp_path, layouts=other_layout(interactions={"file": "log"}, items=item_table)))


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(
        DataError,
        match=r"'netflix' is unknown; known: amazon-movies, beauty, games, goodreads, lastfm, lastfm-all, ml-100k",
    ):
        load_spec("netflix")


def test_a_spec_that_is_no_yaml_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [", "utf-8")
    with pytest.raises(DataError, match=r"bad\.yaml: not YAML"):
        load_spec(str(tmp_path / "bad.yaml"))
    with pytest.raises(DataError, match="cannot be read"):
        load_spec(str(tmp_path / "none.yaml"))


def test_a_spec_may_give_only_what_differs_from_a_known_one(tmp_path: Path) -> None:
    base, whole = load_spec("ml-100k"), load_spec("ml-100k-all")
    changes = {"name": "ml-100k-all", "k_core": 0, "digest": whole.digest}
    assert whole == base.model_copy(update=changes)
    assert whole.digest != base.digest
    (tmp_path / "own.yaml").write_text("{extends: ml-100k, name: own, k_core: 10}", "utf-8")
    own = load_spec(str(tmp_path / "own.yaml"))
    assert (own.k_core, own.layouts, own.folder) == (10, base.layouts, str(tmp_path / "ml-100k"))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("netflix", "extends: 'netflix' is unknown; known: amazon-movies"),
        ("ml-100k-all", "ml-100k-all extends another"),
    ],
)
def test_a_spec_extends_a_whole_known_one(tmp_path: Path, base: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(f"{{extends: {base}, name: own}}", "utf-8")
    with pytest.raises(DataError, match=message):
        load_spec(str(tmp_path / "own.yaml"))


AGPS = ("amazon-movies", "goodreads", "yelp")
"""The data sets of AGP's paper."""
AS_PUBLISHED: dict[str, dict[str, list[dict[str, object]]]] = {
    "amazon-movies": {
        "Movies_and_TV_5.json.gz": [
            {"reviewerID": "u", "asin": item, "unixReviewTime": time, "overall": 5.0}
            for item, time in (("b", 9), ("a", 3))
        ],
        "meta_Movies_and_TV.json.gz": [
            {"asin": item, "title": f"{item} &amp; co", "category": ["TV", "Drama"]} for item in "ab"
        ],
    },
    "yelp": {
        "yelp_academic_dataset_review.json": [
            {"user_id": "u", "business_id": "b", "stars": 4.0, "date": "2018-07-07 22:09:11"},
            {"user_id": "u", "business_id": "a", "stars": 4.0, "date": "2012-01-03 15:28:18"},
        ],
        "yelp_academic_dataset_business.json": [
            {"business_id": "a", "name": "a & co", "categories": "TV, Drama"},
            {"business_id": "b", "name": "b & co", "categories": None},
        ],
    },
    "goodreads": {
        "goodreads_interactions_poetry.json.gz": [
            {"user_id": "u", "book_id": "b", "rating": 0, "date_added": "Mon Aug 01 13:41:57 -0700 2011"},
            {"user_id": "u", "book_id": "a", "rating": 5, "date_added": "Tue Nov 17 11:37:35 -0800 2009"},
        ],
        "goodreads_books_poetry.json.gz": [
            {"book_id": item, "title": f"{item} & co", "publication_year": "2001"} for item in "ab"
        ],
    },
}


@pytest.mark.parametrize("name", AGPS)
def test_agps_data_sets_are_read_as_they_are_published(tmp_path: Path, name: str) -> None:
    spec = load_spec(name).model_copy(update={"k_core": 0})
    folder = tmp_path / spec.folder
    folder.mkdir()
    for file, rows in AS_PUBLISHED[name].items():
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / file).write_bytes(gzip.compress(text.encode()) if file.endswith(".gz") else text.encode())
    dataset = load_dataset(spec, tmp_path)
    assert dataset.sequences == {"u": ("a", "b")}, "the earlier one first"
    assert dataset.items["a"].title == "a & co"
    assert dataset.items["a"].categories == (() if name == "goodreads" else ("TV", "Drama"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]\n", "line 1: holds list"),
        ("{broken\n", "cannot be read as JSON lines"),
        ('{"user_id": "u"}\n', "no field 'business_id' in any line"),
        ('{"user_id": {"a": 1}, "business_id": "b", "date": "1", "stars": 1}\n', "'user_id' holds an object"),
    ],
)
def test_damaged_json_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "yelp"
    folder.mkdir()
    (folder / "yelp_academic_dataset_review.json").write_text(text, "utf-8")
    (folder / "yelp_academic_dataset_business.json").write_text('{"business_id": "b", "name": "B"}\n', "utf-8")
    with pytest.raises(DataError, match=message):
        load_dataset(load_spec("yelp"), tmp_path)


def test_every_shipped_spec_loads_under_any_case() -> None:
    whole = ("lastfm-all", "ml-100k-all")
    assert known_datasets() == tuple(sorted(("beauty", "games", "lastfm", "ml-100k", "ml-1m", *AGPS, *whole)))
    for name in known_datasets():
        spec = load_spec(name.upper())
        assert spec.name == name
        assert spec.k_core == (0 if name in whole else 5)
    assert load_spec("lastfm").time == "none"  # its "timestamp" is a play count
    assert load_spec("ml-100k").time == "global"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Killer, The", "The Killer"),
        ("Toy Story (1995)", "Toy Story"),
        (
            "Land Before Time III: The Time of the Great Giving (1995) (V)",
            "Land Before Time III: The Time of the Great Giving",
        ),
        ("Tin Drum, The (Blechtrommel, Die) (1979)", "The Tin Drum (Die Blechtrommel)"),
        ("Enfer, L' (1994)", "L'Enfer"),
        ("Star Maker, The (Uomo delle stelle, L') (1995)", "The Star Maker (L'Uomo delle stelle)"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey"),
        ("Paris, Texas (1984)", "Paris, Texas"),
        ("Sex, Lies, and Videotape (1989)", "Sex, Lies, and Videotape"),
        ("unkonwn", "unknown"),
    ],
)
def test_movielens_titles(tmp_path: Path, raw: str, clean: str) -> None:
    rules = [rule.model_dump() for rule in load_spec("ml-100k").title_cleanup]
    layout = {"interactions": {"file": "log"}, "items": {"file": "items"}}
    atomic(tmp_path / "Toy" / "log", "user_id\titem_id\ttimestamp", [("a", "i1", "1")])
    atomic(tmp_path / "Toy" / "items", "item_id\ttitle", [("i1", raw)])
    dataset = load(tmp_path, title_cleanup=rules, layouts=other_layout(**layout))
    assert dataset.items["i1"].title == clean


def test_flags_name_categories_and_an_edition_may_have_its_own_kind_of_time(toy: Path) -> None:
    (toy / "Toy" / "u.item").write_text("i1|A|1|0\ni2|B|0|0\ni3|C|1|1\n", "utf-8")
    items = {
        "file": "u.item",
        "format": "dat",
        "separator": "|",
        "header": ["item_id", "title", "Comedy", "War"],
        "categories": {"flags": ["Comedy", "War"]},
    }
    dataset = load(toy, layouts=other_layout(interactions={"file": "toy.inter"}, items=items, time="order"))
    assert [item.categories for item in dataset.items.values()] == [("Comedy",), (), ("Comedy", "War")]
    assert dataset.spec.time == "order"


def test_ml_1m_as_grouplens_publishes_it_has_real_times_and_decoded_users(tmp_path: Path) -> None:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text("1::5::3::978300760\n1::7::5::978300719\n", "latin-1")
    (folder / "movies.dat").write_text("5::Café, The (1994)::Comedy|Sci-Fi\n7::It::Drama\n", "latin-1")
    (folder / "users.dat").write_text("1::F::1::10::48067\n", "latin-1")
    dataset = load_dataset(load_spec("ml-1m").model_copy(update={"k_core": 0}), tmp_path)
    assert dataset.spec.time == "global"
    assert dataset.sequences == {"1": ("7", "5")}
    assert dataset.items["5"].title == "The Café"
    assert dataset.items["5"].categories == ("Comedy", "Sci-Fi")
    assert dataset.years == {"5": 1994}
    assert dataset.profiles["1"] == UserProfile(gender="female", age="under 18", occupation="school student")
