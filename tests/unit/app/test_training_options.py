"""Every training option changes what it says, nothing else, and only where the policy has it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from pydantic import ValidationError

from promptailor.app.job import TrainConfig
from promptailor.app.trainers import TRAINERS, check_policy, reinforced_settings
from promptailor.app.training import run_training_job
from promptailor.policies.a2c import A2CConfig
from promptailor.policies.actor_critic import PolicyConfig
from promptailor.prompts.errors import DataError, SpecError
from promptailor.prompts.patterns import PATTERNS


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"policy": "rpp", "dataset": "planted", "model": "planted:1"} | settings)


def changes(**settings: Any) -> dict[str, Any]:
    """Return what differs from the preset's own policy and learner."""
    preset = settings.get("preset", "default")
    plain = reinforced_settings(config(preset=preset))
    given = reinforced_settings(config(**settings))
    pairs = [(asdict(plain[0]), asdict(given[0])), (asdict(plain[1]), asdict(given[1]))]
    return {name: after[name] for before, after in pairs for name in after if after[name] != before[name]}


@pytest.mark.parametrize("preset", ["default", "on-policy", "paper"])
def test_what_is_left_out_is_the_presets_own(preset: str) -> None:
    settings = {
        "default": (PolicyConfig(), A2CConfig()),
        "on-policy": (PolicyConfig(critic="value"), A2CConfig.on_policy()),
        "paper": (PolicyConfig.paper(), A2CConfig.paper()),
    }
    assert reinforced_settings(config(preset=preset)) == settings[preset]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"personalise": ("role_playing",)}, {"personalised": ("role_playing",)}),
        ({"profile": True}, {"personalised": (*PATTERNS, "user_profile")}),
        ({"pooling": "mean"}, {"pooling": "mean"}),
        ({"state": "paper"}, {"state": "paper"}),
        ({"objective": "sum"}, {"objective": "sum"}),
        ({"steps": 5}, {"n_steps": 5, "steps_per_update": 5}),
        ({"preset": "paper", "steps": 5}, {"n_steps": 5}),
        ({"preset": "paper", "objective": "final"}, {"objective": "final"}),
        ({"sentences": 2}, {"sentences": 2}),
    ],
)
def test_an_option_changes_what_it_says_and_nothing_else(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert changes(**settings) == expected


@pytest.mark.parametrize(("policy", "team"), [("ppo-1", "joint"), ("ppo-4", "heads")])
@pytest.mark.parametrize("preset", ["default", "on-policy", "paper"])
def test_ppo_is_one_actor_and_clips(policy: str, team: str, preset: str) -> None:
    design, learning = reinforced_settings(config(policy=policy, preset=preset, personalise=("output_format",)))
    assert (design.team, design.critic, design.personalised) == (team, "value", ("output_format",))
    assert learning.clip is not None
    rpp_design, rpp_learning = reinforced_settings(config(preset=preset))
    assert (design.state, design.hidden) == (rpp_design.state, rpp_design.hidden)
    assert (learning.n_steps, learning.objective) == (rpp_learning.n_steps, rpp_learning.objective)


def test_patterns_come_in_the_catalogues_order_whatever_the_order_they_were_named_in() -> None:
    assert TrainConfig.parse_patterns(" user-profile,role_playing ") == ("role_playing", "user_profile")
    assert TrainConfig.parse_patterns(None) == ()
    assert config(personalise=("output_format", "role_playing")).patterns == ("role_playing", "output_format")
    assert config(personalise=("role_playing",), profile=True).patterns == ("role_playing", "user_profile")
    assert config().patterns == PATTERNS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "bandit", "pooling": "mean"}, "--pooling: bandit has no such setting; leave it out, or train rpp"),
        ({"policy": "enumeration", "steps": 2}, "--steps: enumeration has no such setting"),
        ({"policy": "random-search", "objective": "sum"}, "--objective: random-search has no such setting"),
        ({"policy": "bandit", "state": "paper"}, "--state: bandit has no such setting"),
        ({"policy": "grips", "sentences": 2}, "--sentences: grips has no such setting"),
        ({"policy": "ppo"}, "--policy 'ppo': unknown; there are rpp, rpp\\+, ppo-1, ppo-4"),
    ],
)
def test_an_option_that_a_policy_has_not_is_one_line_that_says_which_have(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        check_policy(config(**settings))
    assert "\n" not in str(raised.value)


def test_an_unknown_pattern_is_one_line_that_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"--personalise 'tone': no such pattern; there are role_playing, history_rec"):
        TrainConfig.parse_patterns("role_playing,tone")


@pytest.mark.parametrize("settings", [{"profile": True}, {"personalise": ("user_profile",)}])
def test_a_data_set_without_profiles_is_one_line(settings: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(DataError, match="--profile: planted-1 has no user profiles; ml-1m and ml-100k have"):
        run_training_job(config(**settings), tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("policy", ["rpp", "ppo-1", "bandit", "enumeration", "random-search"])
def test_policies_over_the_catalogue_take_every_restriction_of_the_space(policy: str) -> None:
    assert policy in TRAINERS
    check_policy(config(policy=policy, personalise=("role_playing",), profile=True, sentences=2))


@pytest.mark.parametrize("settings", [{"sentences": 0}, {"steps": 0}, {"steps": 51}, {"personalise": ("tone",)}])
def test_what_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**settings)
