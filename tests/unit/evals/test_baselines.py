from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from promptailor.evals.baselines.base import ItemScorer, Method
from promptailor.evals.baselines.itemknn import ItemKNN
from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.baselines.popularity import Popularity
from promptailor.evals.metrics import chance, score
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Item, RankRequest

SEQUENCES = {"u1": ("a", "b", "c"), "u2": ("a", "b", "b"), "u3": ("a", "d"), "u4": ("e", "d")}


class Reverse(ItemScorer):
    """The canonical order upside down."""

    name = "reverse"

    def scores(self, request: RankRequest) -> list[float]:
        return [float(place) for place in range(len(request.candidates))]


def ask(candidates: Sequence[str], history: Sequence[str] = "", user_id: str = "u1") -> RankRequest:
    return RankRequest(
        user_id=user_id,
        history=tuple(Item(item_id=i, title=i) for i in history),
        candidates=tuple(Item(item_id=i, title=i) for i in candidates),
        domain="neutral",
    )


def ranked(method: Method, asked: RankRequest) -> str:
    (answer,) = method.rank([asked])
    assert answer.user_id == asked.user_id
    assert answer.llm_calls == 0
    return "".join(answer.ranking)


def test_identity_keeps_the_canonical_order() -> None:
    assert ranked(Identity(), ask("dbca")) == "dbca"


def test_random_depends_on_seed_and_user_and_not_on_the_order_shown() -> None:
    first = ranked(Random(0), ask("abcdefgh"))
    assert first == ranked(Random(0), ask("hgfedcba"))
    assert first != ranked(Random(1), ask("abcdefgh"))
    assert first != ranked(Random(0), ask("abcdefgh", user_id="u2"))


def test_random_gives_every_order_the_same_chance() -> None:
    orders = [ranked(Random(0), ask("abc", user_id=f"user{n}")) for n in range(3000)]
    counts = [orders.count("".join(order)) for order in itertools.permutations("abc")]
    assert sum((count - 500) ** 2 / 500 for count in counts) < 20.5  # chi-squared, 5 degrees of freedom, p = .001


@pytest.mark.parametrize("method", [Identity(), Random(0), Reverse()], ids=lambda m: m.name)
def test_orders_that_know_nothing_are_at_chance_on_balanced_slots(
    method: Method, make_cases: Callable[..., list[EvalCase]]
) -> None:
    cases = make_cases(400)
    answers = method.rank([case.request for case in cases])
    scores = [
        score(answer.ranking, case.relevant_item_id)["ndcg@10"] for answer, case in zip(answers, cases, strict=True)
    ]
    error = np.std(scores) / math.sqrt(len(scores))
    assert abs(np.mean(scores) - chance(10)["ndcg@10"]) < 3 * error


def test_popularity_counts_and_breaks_ties_canonically() -> None:
    assert ranked(Popularity(SEQUENCES), ask("xecdab")) == "abdecx"  # a, b 3; d 2; e, c 1; x 0


def test_itemknn_by_hand() -> None:
    # Binary columns: a = u1 u2 u3, b = u1 u2, c = u1, d = u3 u4, e = u4.
    knn = ItemKNN(SEQUENCES)
    asked = ask("abcdex", history="b")
    expected = [2 / math.sqrt(6), 1.0, 1 / math.sqrt(2), 0.0, 0.0, 0.0]
    assert knn.scores(asked) == pytest.approx(expected)
    assert knn.scores(ask("d", history="ae")) == pytest.approx([1 / math.sqrt(6) + 1 / math.sqrt(2)])
    assert ranked(knn, ask("abcd")) == "abcd"  # an empty history knows nothing
    assert ranked(knn, ask("dc", history="xb")) == "cd"  # unknown items of the history are passed over
