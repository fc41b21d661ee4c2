"""Ablated policies in the graph: patterns without an agent keep the manual prompt, the profile is a fifth agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from promptailor.evals.types import EvalCase
from promptailor.graph.build import AGENT_NODES, build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_batch, run_training, to_rollout
from promptailor.graph.state import RankInput, RankOutput, StepRecord, TrainInput
from promptailor.policies.base import PromptPolicy
from promptailor.policies.manual import manual_policies
from promptailor.prompts.assemble import assemble
from promptailor.prompts.domain import UserProfile
from promptailor.prompts.patterns import PATTERNS, SENTENCE_PATTERNS, Catalogue, PatternName

from .conftest import KeyedTeam

FIVE: tuple[PatternName, ...] = (*PATTERNS, "user_profile")
PROFILE = UserProfile(gender="female", age="25", occupation="baker", taste="long films")


def with_policy(resources: Resources, policy: PromptPolicy) -> Resources:
    return replace(resources, policies={**manual_policies(resources.catalogue), "rpp": policy})


def steps_of(resources: Resources, case: EvalCase, patterns: tuple[PatternName, ...]) -> list[StepRecord]:
    """Return one episode of a team that has agents for some patterns."""
    graph = build_rank_graph(with_policy(resources, KeyedTeam(resources.catalogue, patterns)), training=True)
    user = TrainInput.of(case.request, relevant_item_ids=[case.relevant_item_id])
    (output,) = run_training(graph, [user], Context(policy="rpp", explore=True), n_steps=4)
    assert len(to_rollout(output, 1).transitions) == 4
    return output.trace


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_alone_leaves_the_others_as_in_the_manual_prompt(
    pattern: PatternName, resources: Resources, cases: Sequence[EvalCase]
) -> None:
    manual = resources.catalogue.manual_prompt
    seen: set[int | None] = set()
    for case in cases[:6]:
        for step in steps_of(resources, case, (pattern,)):
            expected: dict[str, int | None] = {p: getattr(manual, p) for p in SENTENCE_PATTERNS}
            found: dict[str, int | None] = {p: getattr(step.spec, p) for p in SENTENCE_PATTERNS}
            if pattern == "history_records":
                seen.add(step.spec.history_length)
                assert found == expected
            else:
                seen.add(found.pop(pattern))
                expected.pop(pattern)
                assert found == expected
                assert step.prompt.history_length == min(manual.history_length, len(case.request.history))
            assert set(step.choices) == {pattern}
    assert len(seen) > 1


def test_a_step_of_one_pattern_sends_the_manual_prompt_where_it_takes_the_manual_sentence(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    manual = resources.catalogue.manual_prompt
    records = [step for case in cases[:8] for step in steps_of(resources, case, ("role_playing",))]
    same = [step for step in records if step.spec.role_playing == manual.role_playing]
    assert same
    for step in same:
        assert step.spec.model_copy(update={"history_length": manual.history_length}) == manual


def test_the_profile_agent_is_drawn_where_a_policy_has_it(resources: Resources, catalogue: Catalogue) -> None:
    nodes = [
        set(build_rank_graph(with_policy(resources, KeyedTeam(catalogue, patterns))).get_graph().nodes)
        for patterns in (PATTERNS, FIVE)
    ]
    assert nodes[1] - nodes[0] == {AGENT_NODES["user_profile"]}


def test_the_profile_agent_shows_its_subset_and_nothing_else(
    resources: Resources, cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    texts = {
        "gender": "gender: female",
        "age": "age: 25",
        "occupation": "occupation: baker",
        "taste": "taste: long films",
    }
    shown = set()
    for case in cases[:10]:
        known = case.request.model_copy(update={"user_profile": PROFILE})
        for step in steps_of(resources, replace(case, request=known), FIVE):
            subset = catalogue.user_profile.subsets[step.choices["user_profile"].action]
            found = {field for field, text in texts.items() if text in step.prompt.user}
            assert found == set(subset)
            shown.add(subset)
    assert len(shown) > 4


def test_a_policy_without_the_fifth_agent_serves_beside_one_with_it(
    resources: Resources, cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    policies = {**resources.policies, "four": KeyedTeam(catalogue), "five": KeyedTeam(catalogue, FIVE)}
    graph = build_rank_graph(replace(resources, policies=policies))
    request = cases[0].request.model_copy(update={"user_profile": PROFILE})
    four, five = (
        RankOutput.model_validate(run_batch(graph, [RankInput.of(request)], Context(policy=name), n_steps=3)[0])
        for name in ("four", "five")
    )
    assert all("user_profile" not in step.choices for step in four.steps)
    assert all(step.choices["user_profile"].probability is not None for step in five.steps)
    alone = build_rank_graph(resources)
    answer = run_batch(alone, [RankInput.of(request)], Context(policy="rpp"), n_steps=3)[0]
    assert RankOutput.model_validate(answer).items == four.items


def test_the_manual_prompt_with_a_profile_shows_every_known_field(
    cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    plain, profile, *_ = (policy.spec for policy in manual_policies(catalogue).values())
    known = cases[0].request.model_copy(update={"user_profile": PROFILE})
    shown = assemble(known, profile, catalogue, seed=0).user
    assert all(text in shown for text in ("gender: female", "age: 25", "occupation: baker"))
    assert "<profile>" not in assemble(known, plain, catalogue, seed=0).user
    nobody = cases[0].request
    assert assemble(nobody, profile, catalogue, seed=0).digest == assemble(nobody, plain, catalogue, seed=0).digest
