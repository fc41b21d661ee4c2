"""The graph describes items and users before a policy that asks for it chooses, and for no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from promptailor.evals.types import EvalCase
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.guiding import guided_policy
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput
from promptailor.policies.manual import CHAIN_OF_THOUGHT, manual_policies
from promptailor.policies.profiling import Profiling
from promptailor.prompts.domain import UserProfile
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.patterns import PATTERNS, Catalogue
from tests.unit.graph.conftest import KeyedTeam


@dataclass
class Scribe:
    """Summarises, writes profiles and ranks, and keeps what it was asked."""

    profile: str = "Likes </profile> quiet things.\n- Heat"
    asked: list[ModelCall] = field(default_factory=list)
    spec: str = "scribe"
    max_candidates: int | None = None

    def complete(self, call: ModelCall) -> Completion:
        self.asked.append(call)
        content = call.messages[-1].content
        if call.labels:
            text = "\n".join(call.labels)
        elif "<item>" in content:
            text = f"Sum of {content.splitlines()[2]}"
        else:
            text = self.profile
        return Completion(text=text, model=self.spec, calls=1)

    async def acomplete(self, call: ModelCall) -> Completion:
        return self.complete(call)

    def of(self, kind: str) -> list[str]:
        """Return the questions of a kind."""
        kinds = {"rank": "<candidates>", "summary": "<item>"}
        contents = [call.messages[-1].content for call in self.asked]
        if kind == "profile":
            return [text for text in contents if not any(mark in text for mark in kinds.values())]
        return [text for text in contents if kinds[kind] in text]


def described(resources: Resources, scribe: Scribe, *, summaries: bool = True) -> Resources:
    profiling = Profiling(sequence_length=3, summaries=summaries)
    policy = guided_policy(resources.catalogue, profiling, "profile", "Describe my {interest}.")
    return replace(resources, recommender=scribe, policies={**resources.policies, "agp": policy})


def answer(resources: Resources, case: EvalCase, *, policy: str = "agp", in_loop: bool = False) -> RankOutput:
    graph, request = build_rank_graph(resources), RankInput.of(case.request)
    context = Context(policy=policy)
    if in_loop:
        return RankOutput.model_validate(asyncio.run(graph.ainvoke(request, context=context)))
    return RankOutput.model_validate(graph.invoke(request, context=context))


@pytest.mark.parametrize("in_loop", [False, True])
def test_items_are_summarised_then_the_user_described_then_ranked(
    resources: Resources, cases: Sequence[EvalCase], in_loop: bool
) -> None:
    scribe, case = Scribe(), cases[0]
    output = answer(described(resources, scribe), case, in_loop=in_loop)
    shown = {item.item_id: item.title for item in (*case.request.history[-3:], *case.request.candidates)}
    assert len(scribe.of("summary")) == len(shown)
    (profile,) = scribe.of("profile")
    assert profile.endswith("Describe my taste.")
    assert profile.count(" – Sum of - ") == 3
    (ranking,) = scribe.of("rank")
    assert ranking.count(" – Sum of - ") == 10
    assert "<profile>\n- taste: Likes ‹/profile› quiet things.\n  - Heat\n</profile>" in ranking
    assert output.profile == "Likes ‹/profile› quiet things.\n- Heat"
    assert output.llm_calls == 2, "a profile and a ranking; summaries are everybody's"
    assert output.parse.valid
    assert not output.unread_profile


def test_other_policies_have_nothing_written(resources: Resources, cases: Sequence[EvalCase]) -> None:
    scribe = Scribe()
    output = answer(described(resources, scribe), cases[0], policy="manual")
    assert len(scribe.asked) == 1
    assert output.profile is None
    assert " – " not in scribe.of("rank")[0]


def test_a_profile_of_no_word_leaves_the_prompt_without_one(resources: Resources, cases: Sequence[EvalCase]) -> None:
    scribe = Scribe(profile="<think>who?</think> ...")
    output = answer(described(resources, scribe, summaries=False), cases[0])
    assert output.profile is None
    assert output.unread_profile
    assert "<profile>" not in scribe.of("rank")[0]
    assert output.llm_calls == 2


def test_nobody_without_a_history_is_described_but_their_own_words_are_shown(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    scribe = Scribe()
    request = cases[0].request.model_copy(update={"history": (), "user_profile": UserProfile(taste="Loud things.")})
    output = answer(described(resources, scribe, summaries=False), replace(cases[0], request=request))
    assert not scribe.of("profile")
    assert "- taste: Loud things.\n" in scribe.of("rank")[0]
    assert output.llm_calls == 1


def test_a_profiler_of_its_own_is_asked(resources: Resources, cases: Sequence[EvalCase]) -> None:
    ranker, profiler = Scribe(), Scribe(profile="By another.")
    answer(replace(described(resources, ranker), profilers={"agp": profiler}), cases[0])
    assert not ranker.of("profile")
    assert not ranker.of("summary")
    assert "By another." in ranker.of("rank")[0]
    assert len(profiler.of("profile")) == 1


def test_a_team_may_show_the_profile_as_a_fifth_pattern(
    resources: Resources, cases: Sequence[EvalCase], catalogue: Catalogue
) -> None:
    scribe = Scribe(profile="Likes drama.")
    team = KeyedTeam(catalogue, (*PATTERNS, "user_profile"))
    profiling = Profiling(instruction="Describe my {interest}.", summaries=False)
    by_run = replace(team, info=replace(team.info, profiling=profiling))
    loaded = replace(resources, recommender=scribe, policies={**resources.policies, "rpp": by_run})
    trained = replace(resources, recommender=scribe, policies={**resources.policies, "rpp": team}, profiling=profiling)
    for own in (loaded, trained):
        shown = [answer(own, case, policy="rpp") for case in cases[:4]]
        assert all(output.profile == "Likes drama." for output in shown)
        assert all(output.llm_calls == len(output.steps) + 1 for output in shown)
    prompts = scribe.of("rank")
    assert 0 < sum("- taste: Likes drama." in prompt for prompt in prompts) < len(prompts)


def test_the_nodes_are_drawn_where_a_policy_has_them(resources: Resources, catalogue: Catalogue) -> None:
    nodes = [set(build_rank_graph(r).get_graph().nodes) for r in (resources, described(resources, Scribe()))]
    assert nodes[1] - nodes[0] == {"summarise", "write_profile"}


def test_reasoning_is_written_out(resources: Resources, cases: Sequence[EvalCase], catalogue: Catalogue) -> None:
    scribe = Scribe(profile="Reasons.\nRanking:\n3\n1\n2\n4\n5\n6\n7\n8\n9\n10")
    output = answer(
        replace(resources, recommender=scribe, policies=manual_policies(catalogue)), cases[0], policy=CHAIN_OF_THOUGHT
    )
    (call,) = scribe.asked
    assert call.labels == ()
    assert output.parse.valid
    assert [item.item_id for item in output.items][:2] == [output.steps[0].shown[2], output.steps[0].shown[0]]
