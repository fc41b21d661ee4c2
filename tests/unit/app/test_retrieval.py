"""The retriever: what is excluded, what fits first, and that nothing held out can show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptailor.app.retrieval import CatalogueRetriever
from promptailor.evals.baselines.itemknn import ItemKNN
from promptailor.graph.chat.retriever import Query, is_within
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.titles import fold, words_of
from tests.films import FILMS, film_dataset, film_retriever

FILM_RETRIEVER = film_retriever().warm()
KINDS = FILM_RETRIEVER.kinds
IDS = [str(n) for n in range(1, len(FILMS) + 1)]


def items(*item_ids: str) -> tuple[Item, ...]:
    return tuple(item for item in map(FILM_RETRIEVER.item, item_ids) if item)


some_kinds = st.lists(st.sampled_from(KINDS), max_size=3, unique=True).map(tuple)
some_items = st.lists(st.sampled_from(IDS), max_size=4, unique=True).map(lambda ids: items(*ids))
queries = st.builds(
    Query,
    history=some_items,
    anchors=some_items,
    wanted=some_kinds,
    avoided=some_kinds,
    lessened=some_kinds,
    years=st.none() | st.tuples(st.none() | st.integers(1940, 1997), st.none() | st.integers(1940, 1997)),
    excluded=st.frozensets(st.sampled_from(IDS), max_size=5),
    text=st.sampled_from(["", "star", "nothing like it"]),
    without=st.sampled_from([(), ("the",), ("star", "wars"), ("nowhere",)]),
    n=st.integers(1, 30),
)


@given(query=queries)
@settings(max_examples=40, deadline=None)
def test_every_wish_is_kept_or_said_to_be_broken(query: Query) -> None:
    found = FILM_RETRIEVER.retrieve(query)
    ids = [facts.item.item_id for facts in found]
    assert len(ids) == len(set(ids)) <= query.n
    known = {item.item_id for item in (*query.history, *query.anchors)} | query.excluded
    assert not known & set(ids)
    assert not any(set(query.avoided) & set(facts.item.categories) for facts in found)
    assert not any(set(query.without) & set(words_of(fold(facts.item.title))) for facts in found)
    assert [facts.fits for facts in found] == sorted((facts.fits for facts in found), reverse=True)
    for facts in found:
        within = query.years is None or (facts.year is not None and is_within(facts.year, query.years))
        assert facts.fits == (within and (not query.wanted or bool(facts.wanted)))
        assert set(facts.wanted) == set(query.wanted) & set(facts.item.categories)
        assert set(facts.like_anchors) <= {item.title for item in query.anchors}
        assert set(facts.like_history) <= {item.title for item in query.history}


def test_less_of_a_kind_means_less_of_it() -> None:
    plain = FILM_RETRIEVER.retrieve(Query(wanted=("Sci-Fi",), n=4))
    mild = FILM_RETRIEVER.retrieve(Query(wanted=("Sci-Fi",), lessened=("Action", "Horror", "War", "Thriller"), n=4))

    def violence(found: list[str]) -> int:
        return sum(len({"Action", "Horror", "War", "Thriller"} & set(kinds.split())) for kinds in found)

    by_title = {title: kinds for title, _, kinds in FILMS}
    assert violence([by_title[f.item.title] for f in mild]) < violence([by_title[f.item.title] for f in plain])


def test_nothing_held_out_can_show() -> None:
    dataset = film_dataset()
    others = {user: [i for i in IDS if i not in s] for user, s in dataset.sequences.items()}
    shuffled = {user: (*s[:-2], *others[user][:2]) for user, s in dataset.sequences.items()}
    changed = CatalogueRetriever(load=lambda: replace(dataset, sequences=shuffled), domain="movies")
    query = Query(history=items("1", "5"), anchors=items("15"), n=30)
    assert changed.retrieve(query) == FILM_RETRIEVER.retrieve(query)
    assert changed.history("t1-7") == FILM_RETRIEVER.history("t1-7")
    assert FILM_RETRIEVER.history("nobody") is None


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("I saw the shining and shining through", ["The Shining", "The Shining"]),
        ("star wars: the empire strikes back", ["Star Wars", "The Empire Strikes Back"]),
        ("12 monkeys, not 13", ["12 Monkeys"]),
        ("nothing here", []),
    ],
)
def test_titles_are_found_with_and_without_their_article(text: str, titles: list[str]) -> None:
    assert [m.item.title for m in FILM_RETRIEVER.mentions(words_of(fold(text)))] == titles


def test_cosines_are_the_scores_of_one_item() -> None:
    dataset = film_dataset()
    knn = ItemKNN(dataset.training_sequences())
    catalogue = (*dataset.items.values(), Item(item_id="new", title="Unknown"))
    cosines = knn.cosines(catalogue, catalogue)
    for column, other in enumerate(catalogue):
        request = RankRequest(user_id="u", history=(other,), candidates=catalogue, domain="movies")
        np.testing.assert_allclose(cosines[:, column], knn.scores(request), atol=1e-12)
    assert cosines[-1].sum() == 0
