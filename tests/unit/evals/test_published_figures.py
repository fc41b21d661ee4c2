from __future__ import annotations

import pytest

from promptailor.evals.published_figures import Printed, Published, contradictions, load_published
from promptailor.prompts.errors import InputError

TABLES = {
    "table-2": (("ml-1m", 12), ("games", 12), ("lastfm", 9)),
    "table-3": (("ml-1m", 6), ("games", 6), ("lastfm", 6)),
    "table-4": (("ml-1m", 15), ("games", 15), ("lastfm", 15)),
    "table-5": (("ml-1m", 8), ("games", 8), ("lastfm", 8)),
    "table-6": (("ml-1m", 8), ("games", 8), ("lastfm", 8)),
    "table-7": (("ml-1m", 6),),
    "table-8": (("ml-1m", 5), ("games", 5), ("lastfm", 5)),
}


@pytest.fixture
def paper() -> Published:
    return load_published()


def test_every_table_has_its_data_sets_and_rows(paper: Published) -> None:
    found = {table: tuple((name, len(rows)) for name, rows in of.items()) for table, of in paper.tables.items()}
    assert found == TABLES
    measures = {"table-3": ["mrr@5", "mrr@10", "hr@5"]}
    for table, of in paper.tables.items():
        for rows in of.values():
            assert all(list(row) == measures.get(table, ["ndcg@1", "ndcg@5", "ndcg@10"]) for row in rows.values())
    assert all(
        0 <= p.mean <= 1 for of in paper.tables.values() for r in of.values() for m in r.values() for p in m.values()
    )


@pytest.mark.parametrize(
    ("table", "dataset", "row", "measure", "printed"),
    [
        ("table-2", "ml-1m", "SASRec", "ndcg@10", Printed(mean=0.85)),
        ("table-2", "games", "VQ-Rec", "ndcg@1", Printed(mean=0.14)),
        ("table-2", "lastfm", "RPP+", "ndcg@10", Printed(mean=0.95, sd=0.02)),
        ("table-3", "games", "GRIPS", "mrr@10", Printed(mean=0.52, sd=0.04)),
        ("table-4", "ml-1m", "RPP+ (A)", "ndcg@1", Printed(mean=0.84, sd=0.12)),
        ("table-4", "lastfm", "Manual prompts (C)", "ndcg@1", Printed(mean=0.13, sd=0.09)),
        ("table-5", "ml-1m", "History records", "ndcg@1", Printed(mean=0.65, sd=0.10)),
        ("table-6", "lastfm", "Output format+", "ndcg@10", Printed(mean=0.91, sd=0.03)),
        ("table-7", "ml-1m", "user profile", "ndcg@5", Printed(mean=0.79, sd=0.03)),
        ("table-8", "games", "RPP-pool", "ndcg@5", Printed(mean=0.79, sd=0.00)),
        ("figure-3a", "games", "Role-playing", "ndcg@10", Printed(mean=0.76, sd=0.04)),
    ],
)
def test_figures_are_those_that_the_paper_prints(
    paper: Published, table: str, dataset: str, row: str, measure: str, printed: Printed
) -> None:
    assert paper.find(table, dataset, row, measure) == printed


def test_rows_that_the_paper_repeats_are_equal_everywhere(paper: Published) -> None:
    for dataset in paper.datasets:
        overall = paper.rows("table-2", dataset)
        for label, row in paper.rows("table-4", dataset).items():
            if label.endswith(" (L)"):
                assert row == overall[label.removesuffix(" (L)")], label
        for table in ("table-5", "table-6", "table-8"):
            shared = paper.rows(table, dataset).keys() & overall.keys()
            assert {"Manual prompts", "Enumeration", "GRIPS"} <= shared
            assert all(paper.rows(table, dataset)[label] == overall[label] for label in shared)
        assert paper.rows("table-8", dataset)["RPP-Bert"] == overall["RPP+"]


def test_what_the_paper_lacks_is_none(paper: Published) -> None:
    assert paper.find("table-2", "lastfm", "BM25", "ndcg@10") is None
    assert paper.find("table-2", "ml-100k", "RPP", "ndcg@10") is None
    assert paper.find("figure-4", "ml-1m", "RPP", "ndcg@10") is None


def test_figures_that_no_ranking_can_have_together_are_named(paper: Published) -> None:
    assert contradictions(paper, "ml-1m") == [
        "SASRec, ml-1m: HR@5 0.80 is below NDCG@5 0.84",
        "RPP, ml-1m: MRR@5 0.80 is below NDCG@1 0.82",
    ]
    assert contradictions(paper, "ml-100k") == []


def test_another_paper_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"published 'gpt': unknown; there are rpp"):
        load_published("gpt")
