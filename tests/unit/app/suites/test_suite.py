"""A suite is checked on load, down to the settings of its trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptailor.app.suites.plan import Run, make_plan, parse_models, parse_seeds
from promptailor.app.suites.suite import Sizes, Suite, known_suites, load_suite
from promptailor.evals.protocol import UserSplit
from promptailor.prompts.errors import InputError

POPULARITY = {"label": "Pop", "method": "popularity"}
RPP = {"label": "RPP", "method": "rpp", "train": {}}
SPLIT = UserSplit(train=tuple(f"a{n}" for n in range(300)), validation=("v",), test=tuple(f"t{n}" for n in range(150)))


def group(*rows: Mapping[str, Any], name: str = "main", **about: Any) -> dict[str, Any]:
    return {"id": name, "title": "Methods", "rows": list(rows), **about}


def suite(*groups: Mapping[str, Any], **about: Any) -> Suite:
    return Suite.model_validate({"name": "tried", "about": "", "groups": list(groups), **about})


def run(tried: Suite, **about: Any) -> Run:
    return Run(**{"suite": tried, "dataset": "ml-1m", "model": "embedded:ml-1m", "out": Path("runs"), **about})


@pytest.mark.parametrize("name", known_suites())
def test_the_suites_that_ship_are_valid(name: str) -> None:
    assert load_suite(name).name == name


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([group({**POPULARITY, "colour": "red"})], "groups.0.rows.0.colour: Extra inputs"),
        ([group({"label": "A", "method": "alchemy"})], "'alchemy': unknown; there are identity"),
        ([group({"label": "A", "method": "rpp"})], "'rpp' is learned; write `train: {}`"),
        ([group({"label": "A", "method": "enumeration"})], "'enumeration' is learned"),
        ([group({"label": "A", "method": "rpp=runs/rpp", "train": {}})], "names a folder"),
        ([group({"label": "A", "method": "popularity,manual"})], "one method per row"),
        ([group({**POPULARITY, "train": {}})], "'popularity' is not trained"),
        ([group({**RPP, "method": "rpp?fusion=blend"})], "fusion: Input should be"),
        ([group({"label": "A", "method": "best-of-k?k=none"})], "k=: Input should be"),
        ([group({**RPP, "train": {"epochs": 3}})], "RPP: train: epochs: Extra inputs"),
        ([group({**RPP, "train": {"preset": "best"}})], "RPP: train: preset: Input should be"),
        ([group({"label": "A", "method": "enumeration", "train": {"pooling": "mean"}})], "--pooling"),
        ([group(RPP, {**RPP, "label": "B", "method": "rpp@b", "reward_from": "C"})], "no earlier row 'C' is trained"),
        ([group({**POPULARITY, "reward_from": "RPP"})], "reward_from: nothing is trained"),
        ([group({**RPP, "train": {"reward_from": "runs/rpp"}})], "write `reward_from` beside `train`"),
        ([group(RPP, {**RPP, "label": "Again"})], "two rows have the method 'rpp'"),
        ([group(RPP, {**RPP, "method": "rpp@b"})], "two rows have the label 'RPP'"),
        ([group(RPP, sweep={"name": "x", "values": [1], "train": "users"})], "sweep.values: Tuple should have"),
        ([group(RPP, sweep={"name": "x", "values": [1, 1], "train": "users"})], "each once"),
        ([group(RPP, sweep={"name": "x", "values": [1, 2], "train": "width"})], "'width' is no setting"),
        ([group(RPP, sweep={"name": "x", "values": [1, 2]})], "sets a field of train, evaluate or serve"),
        ([group(RPP, sweep={"name": "x", "values": [1, "many"], "train": "users"})], "RPP: train: users"),
        ([group(RPP, sweep={"name": "x", "values": [1, 99], "serve": "n_steps"})], "evaluate: n_steps"),
        ([group({**RPP, "values": [7]}, sweep={"name": "x", "values": [1, 2], "train": "users"})], "7 is no value"),
        ([group(RPP, evaluate={"n_candidates": "few"})], "evaluate: n_candidates"),
        ([group(RPP, exhibits=[{"id": "t", "title": "T", "rows": ["PPO"]}])], "'PPO' is no row"),
        ([group(RPP, exhibits=[{"id": "t", "title": "T", "compare": [["RPP", "PPO"]]}])], "'PPO' is no row"),
        ([group(RPP, exhibits=[{"id": "t", "title": "T", "measures": ["f1"]}])], "'f1': unknown"),
        ([group(RPP), group(RPP)], "two groups are called 'main'"),
        ([group(RPP, name="Main table")], "groups.0.id"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_in_one_line(
    tmp_path: Path, groups: list[dict[str, Any]], reason: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "about": "", "groups": groups}))
    with pytest.raises(InputError) as error:
        load_suite(str(path))
    assert reason in str(error.value)
    assert str(error.value).startswith(f"--suite {path}: ")
    assert "\n" not in str(error.value)


def test_an_unknown_suite_and_an_unreadable_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown; there are .*smoke"):
        load_suite("everything")
    with pytest.raises(InputError, match="cannot be read"):
        load_suite(str(tmp_path / "none.yaml"))
    (tmp_path / "torn.yaml").write_text("name: [")
    with pytest.raises(InputError, match="not YAML"):
        load_suite(str(tmp_path / "torn.yaml"))


def test_equal_trainings_are_one_and_others_are_not() -> None:
    tried = suite(
        group(RPP, {"label": "Fused", "method": "rpp@fused?fusion=rrf", "train": {}}),
        group({**RPP, "train": {"preset": "default"}}, {**RPP, "label": "T", "method": "rpp@t", "train": {"calls": 9}},
              name="again"),
        group(RPP, name="users", sweep={"name": "n", "values": [100, 200], "train": "users"}),
        sizes={"users": 200, "calls": 3000},
    )  # fmt: skip
    plan = make_plan(run(tried), SPLIT)
    learned = [(t.config.users, t.config.calls) for t in plan.trainings]
    assert sorted(learned) == [(100, 3000), (200, 9), (200, 3000)]
    first, again, few, many = plan.evaluations
    assert {r.training for r in first.rows} == {again.rows[0].training} == {many.rows[0].training}
    assert few.id == "users/100/seed-0"
    assert first.rows[1].method == f"rpp@fused=runs/ml-1m/{first.rows[0].training.id}?fusion=rrf"  # type: ignore[union-attr]


def test_a_row_that_learns_from_the_rewards_of_another_is_given_its_folder() -> None:
    taught = {"label": "Taught", "method": "rpp@taught", "train": {}, "reward_from": "RPP"}
    plan = make_plan(run(suite(group(RPP, taught))), SPLIT)
    source, learner = plan.trainings
    assert source.config.reward_from is None
    assert learner.config.reward_from == Path("runs/ml-1m") / source.id


def test_the_first_seed_of_every_group_comes_before_the_second_of_any() -> None:
    tried = suite(group(POPULARITY, seeds=[0, 1]), group(POPULARITY, name="other", seeds=[5, 6]))
    plan = make_plan(run(tried), SPLIT)
    assert [e.id for e in plan.evaluations] == ["main/seed-0", "other/seed-5", "main/seed-1", "other/seed-6"]
    assert [e.seed for e in make_plan(run(tried, seeds=(3,)), SPLIT).evaluations] == [3, 3]


def test_sizes_come_from_the_command_line_then_the_group_then_the_suite() -> None:
    tried = suite(group(RPP, sizes={"test_users": 100}), sizes={"users": 200, "calls": 3000, "test_users": 500})
    (plain,) = make_plan(run(tried), SPLIT).evaluations
    (given,) = make_plan(run(tried, sizes=Sizes(calls=50, test_users=500)), SPLIT).evaluations
    assert plain.config.users == "100"
    assert given.config.users == "150", "no more than there are"
    assert [e.rows[0].training.config.calls for e in (plain, given)] == [3000, 50]  # type: ignore[union-attr]


def test_what_does_not_apply_is_skipped_and_said() -> None:
    tried = suite(
        group(RPP, POPULARITY, name="users", sweep={"name": "n", "values": [200, 500], "train": "users"}),
        group(POPULARITY, name="profile", datasets=["ml-100k"]),
        group(RPP, name="models", models={"open": "L", "api": "C"}),
    )
    plan = make_plan(run(tried, models={"api": "openai:small"}), SPLIT)
    assert [e.id for e in plan.evaluations] == ["users/200/seed-0", "users/500/seed-0", "models/api/seed-0"]
    assert [r.row.label for r in plan.evaluations[1].rows] == ["Pop"]
    assert plan.evaluations[2].config.model == "openai:small"
    training = plan.evaluations[2].rows[0].training
    assert training is not None
    assert training.config.model == "openai:small"
    assert [text.partition(":")[0] for text in plan.skipped] == ["users, 500", "profile", "models, open"]


def test_options_that_are_no_options_are_refused() -> None:
    assert parse_models("open=transformers:/m?dtype=float32,api=openai:x") == {
        "open": "transformers:/m?dtype=float32",
        "api": "openai:x",
    }
    for text in ("open", "open=", "transformers:x=y", "a=b:c,a=d:e"):
        with pytest.raises(InputError, match="SLOT=provider:model"):
            parse_models(text)
    assert parse_seeds("0, 2") == (0, 2)
    for text in ("one", "1,1", "-1"):
        with pytest.raises(InputError, match="--seeds"):
            parse_seeds(text)
    with pytest.raises(InputError, match="--only 'tables'"):
        make_plan(run(suite(group(POPULARITY)), only="tables"), SPLIT)
    with pytest.raises(InputError, match="--out"):
        _ = run(suite(group(POPULARITY)), out=Path("a,b")).folder
