"""Baselines of rating prediction: fitted to training ratings, checked against least squares solved outright."""

from __future__ import annotations

import numpy as np
import pytest

from promptailor.evals.rating_baselines import Bias, BiasFit, GlobalMean, ItemMean, UserMean, select_bias
from promptailor.evals.ratings import RatingCase
from promptailor.prompts.domain import Item
from promptailor.prompts.ratings import RatedItem, RatingRequest

RATINGS = {"u": (("a", 5.0), ("b", 4.0)), "v": (("a", 3.0), ("c", 1.0), ("b", 2.0)), "w": (("c", 2.0),)}


def request(history: tuple[tuple[str, float], ...], item_id: str) -> RatingRequest:
    return RatingRequest(
        user_id="x",
        history=tuple(RatedItem(item=Item(item_id=i, title=i), rating=r) for i, r in history),
        item=Item(item_id=item_id, title=item_id),
        domain="neutral",
    )


def test_means() -> None:
    mean = 17 / 6
    assert GlobalMean(RATINGS).score(request((("a", 5.0),), "b")) == pytest.approx(mean)
    assert UserMean(RATINGS).score(request((("a", 5.0), ("z", 4.0)), "b")) == 4.5
    assert UserMean(RATINGS).score(request((), "b")) == pytest.approx(mean)
    assert ItemMean(RATINGS).score(request((), "a")) == 4.0
    assert ItemMean(RATINGS).score(request((), "never seen")) == pytest.approx(mean)


@pytest.mark.parametrize(("user_strength", "item_strength"), [(0.5, 2.0), (5.0, 1.0)])
def test_biases_are_the_ridge_solution(user_strength: float, item_strength: float) -> None:
    users, items = list(RATINGS), ["a", "b", "c"]
    rows = [(users.index(u), items.index(i), r) for u, rated in RATINGS.items() for i, r in rated]
    mean = sum(r for _, _, r in rows) / len(rows)
    design = np.zeros((len(rows), 6))
    for n, (u, i, _) in enumerate(rows):
        design[n, u] = design[n, 3 + i] = 1.0
    ridge = np.diag([user_strength] * 3 + [item_strength] * 3)
    solution = np.linalg.solve(design.T @ design + ridge, design.T @ (np.array([r for *_, r in rows]) - mean))

    fit = BiasFit(RATINGS)
    fit.fit(user_strength=20.0, item_strength=0.1)  # where it starts from decides nothing
    bias = fit.fit(user_strength=user_strength, item_strength=item_strength)
    assert [bias.items[i] for i in items] == pytest.approx(solution[3:], abs=1e-3)
    for place, user in enumerate(users):  # what is read from a history is what was fitted
        predicted = bias.score(request(RATINGS[user], "never seen"))
        assert predicted - mean == pytest.approx(solution[place], abs=1e-3)


def test_predictions_stay_on_the_scale() -> None:
    bias = Bias(mean=4.0, items={"a": 0.9, "b": -3.5}, user_strength=1.0, item_strength=1.0)
    requests = [request((("c", 5.0),), "a"), request((("c", 1.0),), "b")]
    assert [bias.score(r) for r in requests] == pytest.approx([5.4, -1.0])
    assert [answer.rating for answer in bias.predict(requests)] == [5.0, 1.0]


def test_strengths_are_those_that_predict_the_validation_users_best() -> None:
    rng = np.random.default_rng(0)
    noise = {f"n{n}": tuple((f"i{m}", float(rng.integers(1, 6))) for m in range(4)) for n in range(30)}
    strict = [RatingCase(request=request(noise[u], f"i{n % 4}"), rating=3.0) for n, u in enumerate(noise)]
    chosen = select_bias(noise, strict)
    assert (chosen.user_strength, chosen.item_strength) == (20.0, 20.0)  # nothing but noise: the most regularised
