"""Pseudo-cases: what a prompt can be scored on for one user without a label.

One of the user's own last choices is hidden and has to be found again among items that the user has not chosen. All of
it comes from the request; the candidates that are really to be ranked are kept out, the relevant one among them.

The recommenders here are fitted on all but the last two choices of a user. The last item of a test request's history
is the second-to-last of these, so no model has seen it; the items before it have been trained on, and find their way to
the top for that reason too. Hence one pseudo-case per user where nothing else is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptailor.policies.draws import draw_distinct
from promptailor.prompts.domain import Item, RankRequest

MIN_HISTORY = 2
"""A choice to hide, and one to tell the user by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoCase:
    """A request made of an earlier part of a user's history, and the choice that followed."""

    request: RankRequest
    relevant_item_id: str
    number: int
    """From 0, for the last choice, backwards; also the sample index that its candidates are shown by."""


def pseudo_cases(
    request: RankRequest, items: Mapping[str, Item], pool: Sequence[str], *, n_cases: int, n_candidates: int, seed: int
) -> tuple[PseudoCase, ...]:
    """Make a user's pseudo-cases, of the last choice first.

    Args:
        request: the user's own.
        items: the catalogue.
        pool: ids that negatives are drawn from, in a fixed order.
        n_cases: how many; fewer where the history is short, none where it is shorter than `MIN_HISTORY`.
        n_candidates: the hidden choice and its negatives; fewer where the pool is small.
        seed: keys the draws, with the user's id.
    """
    known = {item.item_id for item in (*request.history, *request.candidates)}
    n_negatives = min(n_candidates - 1, len(pool) - sum(item_id in items for item_id in known))
    cases: list[PseudoCase] = []
    for number in range(min(n_cases, len(request.history) - MIN_HISTORY + 1) if n_negatives > 0 else 0):
        place = len(request.history) - 1 - number
        target = request.history[place]
        negatives = draw_distinct(pool, known, n_negatives, "pseudo-case", seed, request.user_id, number)
        update = {"history": request.history[:place], "candidates": (target, *(items[i] for i in negatives))}
        case = PseudoCase(request=request.model_copy(update=update), relevant_item_id=target.item_id, number=number)
        cases.append(case)
    return tuple(cases)
