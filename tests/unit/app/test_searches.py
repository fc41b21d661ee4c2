"""Searches per request are asked for by method strings, and by name where requests are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.app.methods import build_methods, load_policies, parse_methods, rewrites_sentences
from promptailor.app.searches import searching_policy
from promptailor.app.serving import parse_policies
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.evals.methods import GraphMethod
from promptailor.policies.best_of_k import BestOfK
from promptailor.policies.grips import Grips
from promptailor.prompts.errors import SpecError
from promptailor.prompts.patterns import Catalogue


def test_settings_of_the_search_and_of_serving_are_told_apart() -> None:
    specs = parse_methods(
        "manual,grips?rounds=2&candidates=3&paraphrase=false&permutations=2,best-of-k@few?k=4&cases=2,best-of-k"
    )
    workspace = Workspace(settings=Settings(), dataset_name="planted", model="planted:1")
    policies = load_policies(specs, workspace)
    grips, few, usual = policies["grips"], policies["best-of-k@few"], policies["best-of-k"]
    assert isinstance(grips, Grips)
    assert (grips.config.rounds, grips.config.candidates, grips.rewrites) == (2, 3, False)
    assert isinstance(few, BestOfK)
    assert isinstance(usual, BestOfK)
    assert (few.config.k, few.cases, usual.config.k, usual.cases) == (4, 2, 15, 1)
    methods = build_methods(specs, workspace, policies, 0)
    assert [method.name for method in methods] == ["manual", "grips", "best-of-k@few", "best-of-k"]
    assert all(isinstance(m, GraphMethod) and m.context.split == "test" and not m.train_users for m in methods)
    assert [m.context.permutations for m in methods if isinstance(m, GraphMethod)] == [None, 2, None, None]


@pytest.mark.parametrize(
    ("text", "rewrites"),
    [("grips", True), ("grips?paraphrase=false", False), ("best-of-k", False), ("rpp+=x", True), ("grips=x", False)],
)
def test_a_refiner_is_needed_where_sentences_are_rewritten(catalogue: Catalogue, text: str, rewrites: bool) -> None:
    assert rewrites_sentences(parse_methods(f"manual,{text}"), catalogue) == rewrites


def test_a_wrong_setting_is_refused_by_its_name(catalogue: Catalogue) -> None:
    with pytest.raises(SpecError, match=r"best-of-k\?k=: .*greater than or equal to 1"):
        searching_policy("best-of-k", catalogue, {"k": "0"})
    specs = parse_methods("grips?k=3")
    workspace = Workspace(settings=Settings(), dataset_name="planted", model="planted:1")
    with pytest.raises(SpecError, match="grips: k"):
        build_methods(specs, workspace, load_policies(specs, workspace), 0)
    with pytest.raises(SpecError, match="has no folder; leave out =x"):
        parse_methods("best-of-k=x")


def test_searches_are_served_by_name_beside_trained_policies() -> None:
    assert parse_policies("manual,grips,best-of-k,rpp=runs/a") == {
        "grips": None,
        "best-of-k": None,
        "rpp": Path("runs/a"),
    }
    with pytest.raises(SpecError, match="NAME=FOLDER"):
        parse_policies("rpp")
