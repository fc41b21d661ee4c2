from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptailor.evals import protocol
from promptailor.evals.datasets import Dataset, DatasetSpec
from promptailor.evals.protocol import (
    UserSplit,
    check_disjoint,
    make_cases,
    make_temporal_cases,
    split_users,
    temporal_split,
)
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import uniform
from promptailor.policies.reward import ndcg
from promptailor.prompts.domain import Item, UserProfile
from promptailor.prompts.errors import DataError

CHANCE = 0.4544
"""Expected NDCG@10 of a random order of ten candidates, one of them relevant."""
N_ITEMS = 60


def dataset_of(sequences: dict[str, list[int]], **spec: Any) -> Dataset:
    """Items i0 to i59; the n-th interaction of every user happens at time n."""
    return Dataset(
        spec=DatasetSpec.model_validate({"name": "toy", "domain": "movies", "time": "global"} | spec),
        items={f"i{n}": Item(item_id=f"i{n}", title=f"Title {n}") for n in range(N_ITEMS)},
        sequences={user_id: tuple(f"i{n}" for n in items) for user_id, items in sequences.items()},
        times={user_id: tuple(map(float, range(len(items)))) for user_id, items in sequences.items()},
        profiles={user_id: UserProfile(age=user_id) for user_id in sequences},
    )


def random_dataset(n_users: int, **spec: Any) -> Dataset:
    """Users u0, u1, ... with 4 to 11 items each."""
    sequences = {}
    for user in range(n_users):
        by_draw = sorted(range(N_ITEMS), key=lambda n: uniform("toy", user, n))
        sequences[f"u{user}"] = by_draw[: 4 + user % 8]
    return dataset_of(sequences, **spec)


histories = st.lists(st.integers(0, N_ITEMS - 1), min_size=4, max_size=20, unique=True)
populations = st.dictionaries(st.text("abc\0é", min_size=1, max_size=4), histories, min_size=1, max_size=25)


def candidate_ids(case: EvalCase) -> list[str]:
    return [item.item_id for item in case.request.candidates]


def mean_ndcg(cases: tuple[EvalCase, ...], order: Callable[[EvalCase], list[str]] = candidate_ids) -> float:
    return mean(ndcg(order(case), {case.relevant_item_id}, 10) for case in cases)


@given(populations, st.integers(2, 12), st.integers(0, 5))
@settings(deadline=None)
def test_a_case_holds_the_target_once_and_items_the_user_never_touched(
    sequences: dict[str, list[int]], n_candidates: int, seed: int
) -> None:
    dataset = dataset_of(sequences)
    for case in make_cases(dataset, list(sequences), n_candidates=n_candidates, seed=seed):
        sequence = dataset.sequences[case.user_id]
        ids = candidate_ids(case)
        assert case.slot is not None
        assert case.relevant_item_id == ids[case.slot] == sequence[-1]
        assert len(set(ids)) == len(ids) == n_candidates
        assert set(ids) & set(sequence) == {case.relevant_item_id}
        assert tuple(item.item_id for item in case.request.history) == sequence[:-1]
        assert case.request.user_profile == UserProfile(age=case.user_id)


@given(populations, st.integers(2, 12), st.integers(0, 5))
@settings(deadline=None)
def test_slots_are_balanced_to_within_one(sequences: dict[str, list[int]], n_candidates: int, seed: int) -> None:
    cases = make_cases(dataset_of(sequences), list(sequences), n_candidates=n_candidates, seed=seed)
    counts = Counter(case.slot for case in cases)
    assert max(counts[slot] for slot in range(n_candidates)) - min(counts[slot] for slot in range(n_candidates)) <= 1


@given(populations, histories, st.data())
@settings(deadline=None)
def test_another_history_changes_that_users_case_and_no_other(
    sequences: dict[str, list[int]], history: list[int], data: st.DataObject
) -> None:
    chosen = data.draw(st.sampled_from(sorted(sequences)))
    before = make_cases(dataset_of(sequences), list(sequences))
    after = make_cases(dataset_of(sequences | {chosen: history}), list(sequences))
    for old, new in zip(before, after, strict=True):
        assert (old == new) == (old.user_id != chosen or history == sequences[chosen])


@given(populations, st.data())
@settings(deadline=None)
def test_content_does_not_depend_on_who_else_is_asked(sequences: dict[str, list[int]], data: st.DataObject) -> None:
    dataset = dataset_of(sequences)
    some = data.draw(st.lists(st.sampled_from(sorted(sequences)), unique=True, min_size=1))
    whole = {case.user_id: case for case in make_cases(dataset, list(sequences))}
    for case in make_cases(dataset, some):
        other = whole[case.user_id]
        negatives, other_negatives = ([i for i in candidate_ids(c) if i != c.relevant_item_id] for c in (case, other))
        assert negatives == other_negatives
        assert case.request.history == other.request.history


def test_cases_come_in_the_order_asked_and_slots_do_not_depend_on_it() -> None:
    dataset = random_dataset(30)
    users = sorted(dataset.sequences)
    forward, backward = make_cases(dataset, users), make_cases(dataset, users[::-1])
    assert [case.user_id for case in backward] == users[::-1]
    assert forward == backward[::-1]


def test_seed_and_hold_out_draw_anew() -> None:
    dataset = random_dataset(30)
    users = sorted(dataset.sequences)
    first, again = make_cases(dataset, users, seed=1), make_cases(dataset, users, seed=1)
    other, second_last = make_cases(dataset, users, seed=2), make_cases(dataset, users, seed=1, hold_out="second_last")
    assert first == again
    assert [c.slot for c in first] != [c.slot for c in other]
    assert all(set(candidate_ids(a)) != set(candidate_ids(b)) for a, b in zip(first, other, strict=True))
    for case in second_last:
        sequence = dataset.sequences[case.user_id]
        assert case.relevant_item_id == sequence[-2]
        assert tuple(item.item_id for item in case.request.history) == sequence[:-2]
        assert sequence[-1] not in candidate_ids(case)


def test_fewer_candidates_are_the_first_negatives_of_more() -> None:
    dataset = random_dataset(5)
    users = sorted(dataset.sequences)
    for few, many in zip(
        make_cases(dataset, users, n_candidates=5), make_cases(dataset, users, n_candidates=20), strict=True
    ):
        negatives, more = ([i for i in candidate_ids(c) if i != c.relevant_item_id] for c in (few, many))
        assert more[:4] == negatives


def test_identity_reverse_and_random_orders_are_at_chance() -> None:
    dataset = random_dataset(1000)
    cases = make_cases(dataset, sorted(dataset.sequences))
    assert mean_ndcg(cases) == pytest.approx(CHANCE, abs=1e-3)
    assert mean_ndcg(cases, lambda case: candidate_ids(case)[::-1]) == pytest.approx(CHANCE, abs=1e-3)
    standard_error = 0.207 / 1000**0.5
    shuffled = mean_ndcg(
        cases, lambda case: sorted(candidate_ids(case), key=lambda i: uniform("order", case.user_id, i))
    )
    assert shuffled == pytest.approx(CHANCE, abs=3 * standard_error)


def test_the_chance_test_fails_when_every_target_stands_in_one_slot_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released RPP code puts the target in the same place for everybody."""
    balanced = make_cases

    def target_first(*args: Any, **options: Any) -> tuple[EvalCase, ...]:
        return tuple(
            replace(
                case,
                slot=0,
                request=case.request.model_copy(
                    update={
                        "candidates": tuple(
                            sorted(case.request.candidates, key=lambda c: c.item_id != case.relevant_item_id)
                        )
                    }
                ),
            )
            for case in balanced(*args, **options)
        )

    monkeypatch.setitem(globals(), "make_cases", target_first)
    with pytest.raises(AssertionError):
        test_identity_reverse_and_random_orders_are_at_chance()


def test_the_split_test_fails_when_the_runs_seed_draws_the_users_again(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = count()
    monkeypatch.setattr(protocol, "uniform", lambda *key: uniform(next(draws), *key))
    with pytest.raises(AssertionError):
        test_only_the_specs_split_seed_moves_users()


def test_which_user_gets_which_slot_is_unrelated_to_the_order_of_users() -> None:
    dataset = random_dataset(1000)
    slots = [case.slot or 0 for case in make_cases(dataset, [f"u{n}" for n in range(1000)])]
    # Dealt in the order of users, neighbours would always differ by one place.
    neighbours = Counter((b - a) % 10 for a, b in pairwise(slots))
    assert max(neighbours.values()) < 150


def test_negatives_are_uniform_over_the_untouched_items() -> None:
    dataset = random_dataset(2000)
    drawn = Counter(
        item_id
        for case in make_cases(dataset, sorted(dataset.sequences))
        for item_id in candidate_ids(case)
        if item_id != case.relevant_item_id
    )
    assert len(drawn) == N_ITEMS
    expected = 9 * 2000 / N_ITEMS
    assert all(abs(count - expected) < 5 * expected**0.5 for count in drawn.values())


@pytest.mark.parametrize(
    ("users", "arguments", "message"),
    [
        (["nobody"], {}, "user 'nobody' is not in data set toy"),
        (["a", "a"], {}, "user 'a' stands in both"),
        (["short"], {"hold_out": "second_last"}, "user 'short' has no history before the target"),
        (["a"], {"n_candidates": 1}, "n_candidates: 1 leaves nothing to rank"),
        (["a"], {"n_candidates": 58}, "user 'a' has touched all but 56 items; 57 negatives needed"),
    ],
)
def test_impossible_cases_are_named(users: list[str], arguments: dict[str, Any], message: str) -> None:
    dataset = dataset_of({"a": [1, 2, 3, 4], "short": [1, 2]})
    with pytest.raises(DataError, match=message):
        make_cases(dataset, users, **arguments)


def test_all_untouched_items_can_be_drawn() -> None:
    (case,) = make_cases(dataset_of({"a": [1, 2, 3, 4]}), ["a"], n_candidates=57)
    assert set(candidate_ids(case)) == {f"i{n}" for n in range(N_ITEMS)} - {"i1", "i2", "i3"}


@given(populations, st.integers(0, 3))
@settings(deadline=None)
def test_pools_are_disjoint_and_complete(sequences: dict[str, list[int]], split_seed: int) -> None:
    dataset = dataset_of(sequences | {"short": [1, 2, 3]}, split_seed=split_seed)
    split = split_users(dataset)
    pools = [*split.train, *split.validation, *split.test]
    assert sorted(pools) == sorted(sequences)
    assert split.n_too_short == 1


def test_pools_have_their_shares_in_hash_order() -> None:
    dataset = random_dataset(2000)
    split = split_users(dataset)
    assert len(split.train) == pytest.approx(800, abs=70)
    assert len(split.validation) == pytest.approx(400, abs=60)
    assert len(split.test) == pytest.approx(800, abs=70)
    numbers = [int(user_id[1:]) for user_id in split.train]
    assert mean(numbers[:100]) == pytest.approx(1000, abs=200)


def test_a_user_stays_in_its_pool_whoever_else_there_is() -> None:
    whole, half = split_users(random_dataset(200)), split_users(random_dataset(100))
    assert set(half.test) <= set(whole.test)
    assert set(half.train) <= set(whole.train)


def test_only_the_specs_split_seed_moves_users() -> None:
    dataset = random_dataset(200)
    moved = replace(dataset, spec=dataset.spec.model_copy(update={"split_seed": 1}))
    assert split_users(dataset) == split_users(random_dataset(200))
    assert split_users(dataset).test != split_users(moved).test


def test_overlapping_pools_are_refused() -> None:
    with pytest.raises(DataError, match="user 'b' stands in both train and test"):
        UserSplit(train=("a", "b"), validation=(), test=("b",))
    with pytest.raises(DataError, match="user 'a' stands in both artefact and artefact"):
        check_disjoint(artefact=["a", "a"])


def test_temporal_split_trains_on_nothing_after_the_cutoff() -> None:
    dataset = random_dataset(100)
    split = temporal_split(dataset, quantile=0.7)
    assert set(split.training) == set(dataset.sequences)
    assert split.n_without_case == 100 - len(split.places)
    assert 0 < len(split.places) < 100
    for user_id, trained in split.training.items():
        times = dataset.times[user_id]
        assert trained == tuple(i for i, t in zip(dataset.sequences[user_id], times, strict=True) if t < split.cutoff)
    cases = make_temporal_cases(dataset, split, sorted(split.places))
    for case in cases:
        place = split.places[case.user_id]
        sequence = dataset.sequences[case.user_id]
        assert case.relevant_item_id == sequence[place]
        assert dataset.times[case.user_id][place] >= split.cutoff > dataset.times[case.user_id][place - 1]
        assert tuple(item.item_id for item in case.request.history) == sequence[:place] == split.training[case.user_id]
        assert not set(candidate_ids(case)) & (set(sequence) - {case.relevant_item_id})


@pytest.mark.parametrize("time", ["order", "none"])
def test_temporal_split_needs_real_times(time: str) -> None:
    with pytest.raises(DataError, match=f"needs real times, but its spec says `time: {time}`"):
        temporal_split(random_dataset(10, time=time))


@pytest.mark.parametrize("quantile", [0.0, 1.0, float("nan")])
def test_temporal_split_needs_a_proper_quantile(quantile: float) -> None:
    with pytest.raises(DataError, match="is not between 0 and 1"):
        temporal_split(random_dataset(10), quantile)


def test_temporal_cases_of_users_without_one_are_refused() -> None:
    dataset = dataset_of({"early": [1, 2, 3, 4], "late": [1, 2, 3, 4, 5, 6, 7, 8]})
    split = temporal_split(dataset, 0.8)
    assert set(split.places) == {"late"}
    with pytest.raises(DataError, match="user 'early' has no case in the temporal split; leave out 1"):
        make_temporal_cases(dataset, split, ["late", "early"])
