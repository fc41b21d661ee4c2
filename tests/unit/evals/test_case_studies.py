from __future__ import annotations

import pytest

from promptailor.evals import metrics
from promptailor.evals.case_studies import Pair, moves, pairs_of
from promptailor.evals.records import UserRecord
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.patterns import Catalogue, load_catalogue

CANDIDATES = tuple("abcde")
MANUAL = {"role_playing": 0, "reasoning_guidance": 1, "output_format": 0, "history_length": 2}


def case(user: str) -> EvalCase:
    candidates = tuple(Item(item_id=i, title=f"Title of {i}") for i in CANDIDATES)
    history = tuple(Item(item_id=f"h{n}", title=f"Past {n}") for n in range(4))
    request = RankRequest(user_id=user, history=history, candidates=candidates, domain="neutral")
    return EvalCase(request=request, relevant_item_id="a", slot=0)


def record(user: str, place: int, actions: dict[str, int], *, rewrites: int = 0, slot: int | None = 0) -> UserRecord:
    others = [i for i in CANDIDATES if i != "a"]
    ranking = (*others[: place - 1], "a", *others[place - 1 :])
    return UserRecord(
        method="m", user_id=user, candidates=CANDIDATES, ranking=ranking, relevant_item_id="a", slot=slot, shown_slot=3,
        metrics=metrics.score(ranking, "a"), llm_calls=1, invalid=False, rewrites=rewrites, rejected_rewrites=0,
        prompt_digests=(), actions=(MANUAL, actions),
    )  # fmt: skip


def pair(user: str, before: int, after: int, *, rewrites: int = 0, **changed: int) -> Pair:
    return Pair(
        case=case(user),
        labels=("Manual", "RPP"),
        before=record(user, before, MANUAL),
        after=record(user, after, {**MANUAL, **changed}, rewrites=rewrites),
    )


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def test_the_user_that_one_pattern_helped_most_is_shown_with_everybody_it_moved(catalogue: Catalogue) -> None:
    pairs = [
        pair("u", 3, 2, role_playing=1),
        pair("v", 5, 1, role_playing=2),
        pair("w", 1, 4, role_playing=1),
        pair("x", 2, 2, role_playing=1),
        pair("same", 5, 1),
        pair("y", 2, 5, history_length=4),
        pair("z", 5, 1, role_playing=1, output_format=2),
    ]
    found = {m.change: m for m in moves(pairs, catalogue)}
    assert list(found) == ["role_playing", "history_records", "several"]
    role = found["role_playing"]
    assert (role.n_better, role.n_worse, role.n_same) == (2, 1, 1)
    assert role.case is not None
    assert (role.case.user_id, role.case.rank_before, role.case.rank_after) == ("v", 5, 1)
    sentences = [catalogue.fill(s, "neutral") for s in catalogue.role_playing.sentences]
    assert [(d.pattern, d.before, d.after) for d in role.case.differences] == [
        ("role_playing", sentences[0], sentences[2])
    ]
    assert role.case.ranked_after[0] == "Title of a"
    assert role.case.ranked_before[4] == "Title of a"
    assert role.case.shown_before == role.case.shown_after == 4
    history = found["history_records"]
    assert (history.n_better, history.n_worse, history.n_same, history.case) == (0, 1, 0, None)


def test_the_longer_history_is_shown_oldest_first(catalogue: Catalogue) -> None:
    (only,) = moves([pair("u", 5, 1, history_length=3)], catalogue)
    assert only.case is not None
    assert only.case.history == ("Past 1", "Past 2", "Past 3")


def test_rewritten_sentences_are_no_single_change(catalogue: Catalogue) -> None:
    (only,) = moves([pair("u", 5, 1, role_playing=1, rewrites=2)], catalogue)
    assert only.change == "several"


def test_of_users_helped_equally_the_same_one_is_shown_whatever_their_order(catalogue: Catalogue) -> None:
    pairs = [pair(f"u{n}", 4, 2, role_playing=1) for n in range(20)]
    shown = [moves(order, catalogue)[0].case for order in (pairs, pairs[::-1])]
    assert shown[0] == shown[1]


def test_only_users_with_the_same_list_and_the_item_in_it_are_paired() -> None:
    manual = {user: record(user, 1, MANUAL) for user in "uvw"}
    other = {user: record(user, 2, MANUAL) for user in "uv"}
    manual["v"] = record("v", 1, MANUAL, slot=None)
    other["w"] = record("w", 1, MANUAL).model_copy(update={"candidates": tuple("edcba")})
    pairs = pairs_of({user: case(user) for user in "uvw"}, ("Manual", manual), ("RPP", other))
    assert [p.case.user_id for p in pairs] == ["u"]
