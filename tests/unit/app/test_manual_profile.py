"""The manual prompt with the user's profile is a method of its own, where the data set has profiles."""

from __future__ import annotations

import pytest

from promptailor.app.methods import build_methods, load_policies, parse_methods
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.evals.methods import GraphMethod
from promptailor.prompts.domain import UserProfile
from promptailor.prompts.errors import DataError


def workspace() -> Workspace:
    return Workspace(settings=Settings(), dataset_name="planted", model="planted:1")


def test_without_profiles_it_is_one_line() -> None:
    specs, here = parse_methods("manual,manual-profile"), workspace()
    with pytest.raises(DataError, match="--methods manual-profile: planted-1 has no user profiles") as raised:
        build_methods(specs, here, load_policies(specs, here), seed=0)
    assert "\n" not in str(raised.value)


def test_it_shows_the_profile_and_the_manual_prompt_does_not() -> None:
    here = workspace()
    profiles = {user: UserProfile(age="25") for user in here.dataset.sequences}
    object.__setattr__(here.dataset, "profiles", profiles)
    specs = parse_methods("manual,manual-profile,manual-profile@fused?fusion=rrf&n_steps=2")
    methods = build_methods(specs, here, load_policies(specs, here), seed=0)
    requests = [case.request for case in here.cases(here.split.test[:3], 10, 0)]
    plain, profile, fused = (method.rank(requests) for method in methods if isinstance(method, GraphMethod))
    assert [user.actions[0].get("user_profile") for user in plain] == [None] * 3
    everything = len(here.catalogue.user_profile.subsets) - 1
    assert [user.actions[0].get("user_profile") for user in profile] == [everything] * 3
    assert [len(user.actions) for user in fused] == [2] * 3
    assert all(a.prompt_digests != b.prompt_digests for a, b in zip(plain, profile, strict=True))
