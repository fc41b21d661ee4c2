"""The teachers give each strategy the meaning its sentence has."""

from __future__ import annotations

import numpy as np
import pytest

from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("transformers")

from promptailor.app.backends.embedded.teachers import Teachers

N_ITEMS = 60
GROUP = 20  # items 0..19 are liked together, so are 20..39 and 40..59
KINDS = [("comedy",), ("drama",), ("war", "drama")]


def sequences() -> list[list[int]]:
    """Users of three tastes who walk through their group in order; group 0 has most users, low items are popular."""
    rng = np.random.default_rng(0)
    users = []
    for group, n_users in enumerate((60, 30, 15)):
        for _ in range(n_users):
            keep = rng.random(GROUP) < np.linspace(0.9, 0.4, GROUP)
            users.append([group * GROUP + i for i in range(GROUP) if keep[i]])
    return users


@pytest.fixture(scope="module")
def teachers() -> Teachers:
    return Teachers(sequences(), [KINDS[item // GROUP] for item in range(N_ITEMS)])


def best(teachers: Teachers, strategy: str, history: list[int], candidates: list[int]) -> int:
    return candidates[int(np.argmax(teachers.scores(strategy, history, candidates)))]


def test_every_strategy_of_the_catalogue_has_a_teacher(teachers: Teachers) -> None:
    wanted = {sentence.strategy for sentence in load_catalogue().reasoning_guidance.sentences}
    assert wanted == set(teachers.strategies)


def test_popularity_ignores_the_history(teachers: Teachers) -> None:
    assert best(teachers, "popularity", [40, 41], [59, 0, 39]) == 0
    assert np.array_equal(teachers.scores("popularity", [40], [1, 2]), teachers.scores("popularity", [3], [1, 2]))


def test_next_item_knows_which_way_the_sequences_run(teachers: Teachers) -> None:
    assert best(teachers, "next_item", [4, 5], [3, 6]) == 6
    assert best(teachers, "next_item", [25], [24, 26, 6]) == 26


@pytest.mark.parametrize("strategy", ["whole_history", "collaborative", "nearest"])
def test_similarity_follows_taste_rather_than_popularity(teachers: Teachers, strategy: str) -> None:
    assert best(teachers, strategy, [42, 43, 44], [0, 50, 20]) == 50


def test_latest_looks_at_the_last_item_only(teachers: Teachers) -> None:
    assert best(teachers, "latest", [1, 2, 3, 45], [10, 50]) == 50
    assert np.array_equal(
        teachers.scores("latest", [1, 2, 45], [10, 50]), teachers.scores("latest", [30, 45], [10, 50])
    )


def test_recent_window_forgets_what_is_older_than_the_window(teachers: Teachers) -> None:
    window = [40, 41, 42, 43, 44]
    assert np.array_equal(
        teachers.scores("recent_window", [1, 2, *window], [10, 50]), teachers.scores("whole_history", window, [10, 50])
    )


def test_whole_history_weighs_every_item_the_same(teachers: Teachers) -> None:
    forwards = teachers.scores("whole_history", [1, 2, 45], [10, 50])
    assert np.allclose(forwards, teachers.scores("whole_history", [45, 2, 1], [10, 50]))


def test_nearest_needs_one_similar_item_only(teachers: Teachers) -> None:
    history = [1, 2, 3, 4, 5, 41]
    assert best(teachers, "whole_history", history, [8, 42]) == 8
    assert teachers.scores("nearest", history, [42])[0] > 0.5


def test_categories_compare_kinds_not_users(teachers: Teachers) -> None:
    assert best(teachers, "categories", [20, 21], [45, 5]) == 45  # both are dramas, though nobody likes both groups


def test_without_categories_clusters_of_items_liked_together_stand_in() -> None:
    teachers = Teachers(sequences(), [()] * N_ITEMS)
    assert teachers.kinds.shape[0] == N_ITEMS
    assert best(teachers, "categories", list(range(40, 50)), [52, 30]) == 52


@pytest.mark.parametrize("strategy", ["next_item", "nearest", "blend", "categories"])
def test_without_history_every_strategy_is_popularity(teachers: Teachers, strategy: str) -> None:
    assert np.array_equal(teachers.scores(strategy, [], [5, 9]), teachers.scores("popularity", [], [5, 9]))


def test_learning_twice_gives_the_same_scores(teachers: Teachers) -> None:
    again = Teachers(sequences(), [KINDS[item // GROUP] for item in range(N_ITEMS)])
    for strategy in teachers.strategies:
        assert np.allclose(
            again.scores(strategy, [3, 25, 44], [7, 30, 50]),
            teachers.scores(strategy, [3, 25, 44], [7, 30, 50]),
            atol=1e-5,
        )


def test_neighbours_and_central_items(teachers: Teachers) -> None:
    assert all(20 <= item < 40 for item in teachers.neighbours(30, 3))
    assert 30 not in teachers.neighbours(30, 3)
    assert 1 not in teachers.central([1, 41, 42, 43, 44], 3)
