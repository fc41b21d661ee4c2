"""Pseudo-cases hide what the user chose, and show nothing of what is really to be ranked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.pseudo_case import pseudo_cases
from promptailor.prompts.domain import Item, RankRequest

ITEMS = {str(n): Item(item_id=str(n), title=f"title {n}") for n in range(60)}
POOL = tuple(sorted(ITEMS))


def request(n_history: int, n_candidates: int = 6, user: str = "u") -> RankRequest:
    ids = list(ITEMS)
    return RankRequest(
        user_id=user,
        history=tuple(ITEMS[i] for i in ids[:n_history]),
        candidates=tuple(ITEMS[i] for i in ids[40 : 40 + n_candidates]),
        domain="neutral",
    )


@given(n_history=st.integers(0, 20), n_cases=st.integers(1, 5), n_candidates=st.integers(2, 40), seed=st.integers(0, 5))
def test_last_choices_are_hidden_among_items_that_the_user_knows_nothing_of(
    n_history: int, n_cases: int, n_candidates: int, seed: int
) -> None:
    asked = request(n_history)
    cases = pseudo_cases(asked, ITEMS, POOL, n_cases=n_cases, n_candidates=n_candidates, seed=seed)
    assert len(cases) == min(n_cases, max(0, n_history - 1))
    known = {item.item_id for item in (*asked.history, *asked.candidates)}
    for number, case in enumerate(cases):
        place = n_history - 1 - number
        ids = [item.item_id for item in case.request.candidates]
        assert case.number == number
        assert case.relevant_item_id == asked.history[place].item_id == ids[0]
        assert case.request.history == asked.history[:place]
        assert len(set(ids)) == len(ids) == min(n_candidates, 1 + len(ITEMS) - len(known))
        assert not known & set(ids[1:])
        assert case.request.user_id == asked.user_id


def test_negatives_belong_to_user_and_seed() -> None:
    def ids(user: str, seed: int) -> list[str]:
        (case,) = pseudo_cases(request(5, user=user), ITEMS, POOL, n_cases=1, n_candidates=6, seed=seed)
        return [item.item_id for item in case.request.candidates[1:]]

    assert ids("u", 0) == ids("u", 0)
    assert len({tuple(ids(user, seed)) for user in "uvw" for seed in range(3)}) == 9


def test_without_items_to_draw_there_is_no_case() -> None:
    assert not pseudo_cases(request(5), {}, (), n_cases=1, n_candidates=6, seed=0)
    asked = request(5)
    own = {item.item_id: item for item in (*asked.history, *asked.candidates)}
    assert not pseudo_cases(asked, own, tuple(own), n_cases=1, n_candidates=6, seed=0)
