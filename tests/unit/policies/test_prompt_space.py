"""Prompt spaces of ablations: what does not vary stays as in the manual prompt, and comes back after saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.base import PolicyInfo
from promptailor.policies.enumeration import enumerate_prompts
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.random_search import random_search
from promptailor.prompts.patterns import PATTERNS, Catalogue, PatternName

if TYPE_CHECKING:
    from tests.unit.policies.conftest import ToyWorld

FIELDS: dict[PatternName, str] = {pattern: pattern for pattern in PATTERNS} | {
    "history_records": "history_length",
    "user_profile": "user_profile",
}
"""Where a pattern's choice stands in a `PromptSpec`."""


@pytest.mark.parametrize("pattern", FIELDS)
def test_one_pattern_alone_leaves_the_others_as_in_the_manual_prompt(
    pattern: PatternName, catalogue: Catalogue
) -> None:
    space = PromptSpace(catalogue, patterns=(pattern,))
    specs = [space.spec(choice) for choice in space]
    manual = (catalogue.manual_profile_prompt if pattern == "user_profile" else catalogue.manual_prompt).model_dump()
    assert len(set(specs)) == len(specs) > 1
    for spec in specs:
        different = {name for name, value in spec.model_dump().items() if value != manual[name]}
        assert different <= {FIELDS[pattern]}


def test_only_the_first_sentences_are_options(catalogue: Catalogue) -> None:
    space = PromptSpace(catalogue, lengths=(1, 4), sentences=2)
    specs = {space.spec(choice) for choice in space}
    assert len(specs) == 2 * 2 * 2 * 2
    assert {spec.reasoning_guidance for spec in specs} == {0, 1}
    more = PromptSpace(catalogue, sentences=100)
    assert [c.shape for c in more.codes] == [c.shape for c in PromptSpace(catalogue).codes]


def test_a_fifth_pattern_multiplies_the_space_and_starts_from_every_field(catalogue: Catalogue) -> None:
    space = PromptSpace(catalogue, lengths=(1,), patterns=(*PATTERNS, "user_profile"))
    assert len(list(space)) == 3 * 1 * 9 * 5 * 16
    assert catalogue.user_profile.subsets[space.manual.user_profile] == catalogue.user_profile.fields


@pytest.mark.parametrize("search", [enumerate_prompts, random_search])
def test_searches_stay_in_their_space(search: Callable[..., object], toy: ToyWorld) -> None:
    space = PromptSpace(toy.catalogue, patterns=("role_playing", "output_format"), sentences=2)
    found = search(toy, space, calls=200, seed=0)
    manual = toy.catalogue.manual_prompt
    for spec in {trial.spec for trial in toy.trials} | {found.spec}:  # type: ignore[attr-defined]
        assert (spec.history_length, spec.reasoning_guidance) == (manual.history_length, manual.reasoning_guidance)
        assert max(spec.role_playing or 0, spec.output_format or 0) < 2


def test_a_bandit_of_a_smaller_space_comes_back_with_it(tmp_path: Path, toy: ToyWorld) -> None:
    space = PromptSpace(toy.catalogue, patterns=("role_playing", "user_profile"), sentences=2)
    bandit = FactoredBandit(space, toy.embeddings)
    bandit.fit(toy, calls=100, seed=0)
    bandit.save(tmp_path)
    info = PolicyInfo(name="bandit", version=bandit.digest)
    loaded = FactoredBandit.load(tmp_path, info, catalogue=toy.catalogue, embeddings=toy.embeddings)
    assert loaded.space == space
    for user in toy.user_ids:
        choices = [policy.choose(toy.inputs(user), key=(user,), explore=True) for policy in (bandit, loaded)]
        assert choices[0] == choices[1]
        assert set(choices[0].probabilities) == {"role_playing", "user_profile"}


def test_the_first_saved_bandits_had_no_settings_and_still_load(tmp_path: Path, toy: ToyWorld) -> None:
    bandit = FactoredBandit(PromptSpace(toy.catalogue), toy.embeddings)
    bandit.save(tmp_path)
    (tmp_path / "policy.json").unlink()
    info = PolicyInfo(name="bandit", version=bandit.digest)
    assert FactoredBandit.load(tmp_path, info, catalogue=toy.catalogue, embeddings=toy.embeddings).space == PromptSpace(
        toy.catalogue
    )


def test_a_bandit_shows_only_fields_that_are_known(toy: ToyWorld) -> None:
    bandit = FactoredBandit(PromptSpace(toy.catalogue, patterns=(*PATTERNS, "user_profile")), toy.embeddings)
    subsets = toy.catalogue.user_profile.subsets
    inputs = replace(toy.inputs("a-user-0"), profile=("age", "gender"))
    shown = {subsets[bandit.choose(inputs, key=(n,), explore=True).spec.user_profile] for n in range(300)}
    assert shown == {(), ("gender",), ("age",), ("gender", "age")}
    nobody = {bandit.choose(toy.inputs("a-user-0"), key=(n,), explore=True).spec.user_profile for n in range(50)}
    assert nobody == {0}
