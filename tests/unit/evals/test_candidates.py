from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptailor.evals import metrics
from promptailor.evals.baselines.base import ItemScorer
from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.baselines.popularity import Popularity
from promptailor.evals.candidates import PublishedLists, Retriever
from promptailor.evals.datasets import Dataset, DatasetSpec
from promptailor.evals.metrics import MEAN_RANK, PRIMARY, chance
from promptailor.evals.protocol import make_cases, read_cases, write_cases
from promptailor.evals.records import UserRecord, read_lines
from promptailor.evals.report import Environment, RunInfo, read_report
from promptailor.evals.runner import evaluate
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import DataError

N_ITEMS = 40
histories = st.lists(st.integers(0, N_ITEMS - 1), min_size=4, max_size=20, unique=True)
populations = st.dictionaries(st.text("abc", min_size=1, max_size=3), histories, min_size=1, max_size=12)


def dataset_of(sequences: dict[str, list[int]]) -> Dataset:
    return Dataset(
        spec=DatasetSpec.model_validate({"name": "toy", "domain": "movies", "time": "order"}),
        items={f"i{n}": Item(item_id=f"i{n}", title=f"Title {n}") for n in range(N_ITEMS)},
        sequences={user: tuple(f"i{n}" for n in items) for user, items in sequences.items()},
        times={user: tuple(map(float, range(len(items)))) for user, items in sequences.items()},
    )


def population(n_users: int) -> Dataset:
    by_draw = {u: sorted(range(N_ITEMS), key=lambda n: uniform("toy", u, n))[: 4 + u % 8] for u in range(n_users)}
    return dataset_of({f"u{u}": items for u, items in by_draw.items()})


class Spy(ItemScorer):
    """Ranks the catalogue by a number in the id and keeps what it was asked."""

    name = "spy"

    def __init__(self) -> None:
        self.requests: list[RankRequest] = []

    def scores(self, request: RankRequest) -> Sequence[float]:
        self.requests.append(request)
        return [float(item.item_id[1:]) for item in request.candidates]


def ids(case: EvalCase) -> list[str]:
    return [item.item_id for item in case.request.candidates]


@given(populations, st.integers(2, 12), st.integers(0, 3))
@settings(deadline=None)
def test_hard_negatives_are_the_best_items_that_the_user_never_touched(
    sequences: dict[str, list[int]], n_candidates: int, seed: int
) -> None:
    dataset, spy = dataset_of(sequences), Spy()
    cases = make_cases(dataset, list(sequences), n_candidates=n_candidates, seed=seed, source=Retriever(spy, dataset))
    assert [case.user_id for case in cases] == list(sequences)
    for case in cases:
        sequence = dataset.sequences[case.user_id]
        untouched = [f"i{n}" for n in range(N_ITEMS - 1, -1, -1) if f"i{n}" not in sequence]
        assert case.slot is not None
        assert case.relevant_item_id == ids(case)[case.slot] == sequence[-1]
        assert ids(case)[: case.slot] + ids(case)[case.slot + 1 :] == untouched[: n_candidates - 1]
    counts = Counter(case.slot for case in cases)
    assert max(counts.values()) - min(counts[slot] for slot in range(n_candidates)) <= 1


@given(populations, st.integers(2, 12))
@settings(deadline=None)
def test_retrieved_candidates_are_the_best_outside_the_history_whether_the_target_is_there_or_not(
    sequences: dict[str, list[int]], n_candidates: int
) -> None:
    dataset, spy = dataset_of(sequences), Spy()
    source = Retriever(spy, dataset)
    for case in make_cases(dataset, list(sequences), n_candidates=n_candidates, source=source, retrieve=True):
        sequence = dataset.sequences[case.user_id]
        offered = [f"i{n}" for n in range(N_ITEMS - 1, -1, -1) if f"i{n}" not in sequence[:-1]]
        assert ids(case) == offered[:n_candidates]
        assert case.relevant_item_id == sequence[-1]
        place = offered.index(sequence[-1])
        assert case.slot == (place if place < n_candidates else None)


@pytest.mark.parametrize("retrieve", [False, True])
def test_a_retriever_sees_the_history_and_the_whole_catalogue_and_nothing_else(retrieve: bool) -> None:
    dataset, spy = population(20), Spy()
    users = sorted(dataset.sequences)
    for hold_out, n_held in (("last", 1), ("second_last", 2)):
        spy.requests.clear()
        make_cases(dataset, users, source=Retriever(spy, dataset), retrieve=retrieve, hold_out=hold_out)  # type: ignore[arg-type]
        for request in spy.requests:
            assert tuple(i.item_id for i in request.history) == dataset.sequences[request.user_id][:-n_held]
            assert {i.item_id for i in request.candidates} == set(dataset.items)


@pytest.mark.parametrize("retrieve", [False, True])
def test_neither_the_order_of_users_nor_another_target_changes_what_is_offered(retrieve: bool) -> None:
    dataset = population(30)
    users = sorted(dataset.sequences)
    source = Retriever(Popularity(dataset.training_sequences()), dataset)
    forward = make_cases(dataset, users, source=source, retrieve=retrieve)
    assert make_cases(dataset, users[::-1], source=source, retrieve=retrieve) == forward[::-1]
    if retrieve:  # the target is not known to the retriever, so another one leaves its list as it is
        case = forward[0]
        other = next(i for i in dataset.items if i not in dataset.sequences[case.user_id])
        moved = dataset_of({})
        moved = Dataset(
            spec=dataset.spec,
            items=dataset.items,
            sequences={**dataset.sequences, case.user_id: (*dataset.sequences[case.user_id][:-1], other)},
            times=dataset.times,
        )
        assert ids(make_cases(moved, [case.user_id], source=source, retrieve=True)[0]) == ids(case)


def test_items_scored_alike_come_in_an_order_that_has_nothing_to_do_with_ids() -> None:
    dataset = population(1)
    offered = list(Retriever(Identity(), dataset).best("u0", ()))
    assert sorted(offered) == sorted(dataset.items)
    assert offered not in (sorted(dataset.items), list(dataset.items))
    assert offered == list(Retriever(Identity(), dataset).best("u9", ()))


def test_a_source_leaves_random_negatives_as_they_were() -> None:
    dataset = population(30)
    users = sorted(dataset.sequences)
    again = make_cases(dataset, users)
    assert [ids(case) for case in again] != [
        ids(case) for case in make_cases(dataset, users, source=Retriever(Random(0), dataset))
    ]
    assert make_cases(dataset, users) == again


def published(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "toy.candidates.sasrec"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_published_line_loses_target_touched_unknown_and_repeated_items(tmp_path: Path) -> None:
    dataset = dataset_of({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7], "c": [8, 9, 10, 11], "d": [12, 13, 14, 15]})
    path = published(
        tmp_path,
        "a\ti20 i3 i0 i21 i99 i20 i2 i22 i23",  # i3 is the target, i0 and i2 were chosen before, i99 is nobody's
        "b\ti20 i21",  # too short
        "d\ti30 i31 i32",
        "nobody\ti1 i2 i3",
    )
    source = PublishedLists(path, dataset)
    assert [user for user in "abcd" if source.covers(user)] == ["a", "b", "d"]
    cases = make_cases(dataset, list("abcd"), n_candidates=4, source=source)
    assert [case.user_id for case in cases] == ["a", "d"]
    negatives = [[i for i in ids(case) if i != case.relevant_item_id] for case in cases]
    assert negatives == [["i20", "i21", "i22"], ["i30", "i31", "i32"]]
    assert [case.relevant_item_id for case in cases] == ["i3", "i15"]
    retrieved = make_cases(dataset, list("abcd"), n_candidates=3, source=source, retrieve=True)
    assert [(ids(case), case.slot) for case in retrieved] == [
        (["i20", "i3", "i21"], 1),
        (["i30", "i31", "i32"], None),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a i1 i2"], "line 1: no tab"),
        (["a\ti1", "a\ti2"], "line 2: user 'a' has a list already"),
        (["z\ti1"], "no user and item"),
        (["a\t77 78"], "no user and item"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_with_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PublishedLists(published(tmp_path, *lines), dataset_of({"a": [0, 1, 2, 3]}))


def test_a_missing_file_of_lists_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        PublishedLists(tmp_path / "nothing.here", population(3))


def test_users_whose_target_was_missed_count_as_zero_and_chance_knows(tmp_path: Path) -> None:
    dataset = population(60)
    source = Retriever(Popularity(dataset.training_sequences()), dataset)
    cases = make_cases(dataset, sorted(dataset.sequences), source=source, retrieve=True)
    missed = {case.user_id for case in cases if case.slot is None}
    assert 0 < len(missed) < 60
    environment = Environment(settings={"candidates_from": "popularity", "retrieve": True})
    evaluate(cases, [Identity(), Random(1)], [], tmp_path, seed=0, info=RunInfo(environment=environment))
    rows = read_lines(tmp_path / "per_user.jsonl", UserRecord)
    assert {row.user_id for row in rows if row.slot is None} == missed
    nothing = metrics.score([str(n) for n in range(10)], "missed")
    assert all(row.metrics == nothing for row in rows if row.slot is None)
    report = read_report(tmp_path)
    assert report.methods["identity"].n_users == 60
    assert report.recall == pytest.approx(1 - len(missed) / 60)
    assert report.chance[PRIMARY] == pytest.approx(report.recall * chance(10)[PRIMARY])
    for row in rows:  # identity is the retriever's own order
        assert row.method != "identity" or row.ranking == row.candidates
    for name in ("report.md", "report.html"):
        page = (tmp_path / name).read_text("utf-8")
        assert "what popularity retrieved" in page
        assert "slots are balanced" not in page
    write_cases(tmp_path / "again.jsonl", cases)
    assert read_cases(tmp_path / "again.jsonl") == cases


def test_a_run_with_every_target_missed_has_chance_zero(tmp_path: Path) -> None:
    dataset = population(10)
    cases = [
        case
        for case in make_cases(dataset, sorted(dataset.sequences), source=Retriever(Spy(), dataset), retrieve=True)
        if case.slot is None
    ]
    environment = Environment(settings={"candidates_from": "spy", "retrieve": True})
    evaluate(cases, [Identity()], [], tmp_path, seed=0, info=RunInfo(environment=environment))
    report = read_report(tmp_path)
    assert report.recall == 0.0
    assert {value for name, value in report.chance.items() if name != MEAN_RANK} == {0.0}
    assert report.chance[MEAN_RANK] == pytest.approx(report.methods["identity"].measures[MEAN_RANK].mean)
    assert (tmp_path / "report.html").is_file()


def test_candidates_with_their_target_added_are_no_retrieval(
    tmp_path: Path, make_cases: Callable[..., list[EvalCase]]
) -> None:
    environment = Environment(settings={"candidates_from": "bm25", "retrieve": False})
    evaluate(make_cases(20), [Identity()], [], tmp_path, seed=0, info=RunInfo(environment=environment))
    report = read_report(tmp_path)
    assert (report.recall, report.retriever) == (1.0, None)
    assert report.chance == pytest.approx(chance(10))
    assert "retrieved" not in (tmp_path / "report.md").read_text("utf-8")
