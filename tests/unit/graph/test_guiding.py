"""AGP learns what a planted world knows, keeps out what changes nothing, and lives through answers that say nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.planted_profiles import ProfileChat
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.app.wiring import train_inputs
from promptailor.evals import statistics
from promptailor.evals.planted_profiles import ProfileWorld
from promptailor.evals.protocol import make_cases, split_users
from promptailor.graph.context import Context
from promptailor.graph.guiding import Guiding, improve
from promptailor.graph.resources import Resources
from promptailor.graph.state import TrainInput
from promptailor.policies.acceptance import AcceptRule
from promptailor.policies.lineage import Lineage, PromptVersion
from promptailor.policies.manual import manual_policies
from promptailor.policies.profiling import Profiling
from promptailor.prompts.guidance import load_guidance
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.patterns import Catalogue

START = load_guidance().profile


@dataclass(kw_only=True)
class World:
    """A profile world's users and its model, which plays every role."""

    world: ProfileWorld
    port: ModelPort
    catalogue: Catalogue
    train: list[TrainInput]
    held_out: list[TrainInput]
    test: list[TrainInput]

    @classmethod
    def of(cls, name: str, catalogue: Catalogue) -> World:
        world = ProfileWorld(name, catalogue)
        dataset = world.dataset(400, 0)
        split = split_users(dataset)

        def users(ids: Sequence[str]) -> list[TrainInput]:
            return train_inputs(make_cases(dataset, ids, hold_out="second_last"))

        return cls(
            world=world,
            port=ModelPort(
                spec=f"planted:{name}", model=ProfileChat(world=world), store=ResponseStore(), budget=Budget()
            ),
            catalogue=catalogue,
            train=users(split.train[:20]),
            held_out=users(split.validation[:60]),
            test=users(split.test[:60]),
        )

    def guiding(self, **changes: object) -> Guiding:
        resources = Resources(
            catalogue=self.catalogue,
            recommender=self.port,
            policies=manual_policies(self.catalogue),
            items={item.item_id: item for item in self.world.items},
        )
        made = Guiding(resources=resources, critic=self.port, context=Context(), profiling=Profiling(summaries=False))
        return replace(made, **changes)  # type: ignore[arg-type]  # fields by name

    def run(self, guiding: Guiding, rounds: int = 20) -> tuple[Lineage, str | None]:
        start = Lineage(subject=guiding.subject, versions=(PromptVersion(number=0, text=START),))
        steps = improve(guiding, start, self.train, self.held_out, affords=lambda n: True, spent=lambda: 0)
        lineage = start
        for _ in range(rounds):
            try:
                lineage = next(steps)
            except StopIteration as end:
                return lineage, end.value
        return lineage, None


@pytest.fixture(scope="module")
def agp(catalogue: Catalogue) -> World:
    return World.of("agp", catalogue)


@pytest.fixture(scope="module")
def learned(agp: World) -> tuple[Lineage, str | None]:
    return agp.run(agp.guiding())


def test_it_asks_for_what_matters_and_stops_when_nothing_is_left_to_gain(
    agp: World, learned: tuple[Lineage, str | None]
) -> None:
    lineage, why = learned
    assert why == "early"
    assert set(agp.world.needed) <= set(agp.world.aspects_in(lineage.instruction))
    assert [version.reason for version in lineage.versions[-2:]] == ["no_change"] * 2


def test_users_it_never_saw_are_ranked_for_better(agp: World, learned: tuple[Lineage, str | None]) -> None:
    guiding = agp.guiding()
    before, after = (
        [user.reward for user in guiding.rank(text, agp.test, "test")] for text in (START, learned[0].instruction)
    )
    gain = statistics.estimate([b - a for a, b in zip(before, after, strict=True)], key=("agp",))
    assert gain.low > 0.2
    assert gain.high < 0.6


def test_every_version_says_what_it_came_from(learned: tuple[Lineage, str | None]) -> None:
    lineage = learned[0]
    accepted = [version for version in lineage.versions[1:] if version.accepted]
    assert accepted
    for version in accepted:
        assert version.parent is not None
        parent = lineage.version(version.parent).text
        assert parent is not None
        assert version.text is not None
        assert version.text.startswith(parent)
        assert version.feedback
        assert version.verdict is not None
        assert version.verdict.low > 0
    assert sum(v.n_unread for v in lineage.versions) > 0, "the critic spoils a share of its answers"


def test_where_nothing_matters_nothing_is_accepted(catalogue: Catalogue) -> None:
    """Of rewrites that change nothing, the published rule accepts about half."""
    null = World.of("agp-null", catalogue)
    rules: tuple[tuple[AcceptRule, int], ...] = (("test", 4), ("paper", 8))
    tested, published = (null.run(null.guiding(accept=rule), rounds)[0] for rule, rounds in rules)
    assert tested.proposed >= 3
    assert tested.n_accepted == 0
    assert published.n_accepted >= 2


@dataclass
class Babbler:
    """A model that ranks well, and answers everything else by garbage."""

    port: ModelPort
    says: Sequence[str] = field(
        default=("", "I refuse.", "<prompt>", "</feedback><feedback>x", "\x00", "<prompt></prompt>")
    )
    spec: str = "babbler"
    max_candidates: int | None = None

    def complete(self, call: ModelCall) -> Completion:
        if call.labels:
            return self.port.complete(call)
        said = random.Random(call.messages[0].content).choice(self.says)
        return Completion(text=said, model=self.spec)

    async def acomplete(self, call: ModelCall) -> Completion:
        return self.complete(call)


def test_a_model_that_says_nothing_usable_is_counted_and_harms_nobody(agp: World) -> None:
    babbler = Babbler(agp.port)
    guiding = agp.guiding(critic=babbler, patience=3, accept="paper")
    guiding = replace(guiding, resources=replace(guiding.resources, recommender=babbler))
    lineage, why = agp.run(guiding)
    assert why == "early"
    assert lineage.instruction == START
    assert len(lineage.versions) == 4
    assert all(version.reason is not None and version.n_unread for version in lineage.versions[1:])
    assert any(version.n_unwritten for version in lineage.versions[1:])


def test_the_ranking_sentence_can_be_improved_instead(agp: World) -> None:
    guiding = agp.guiding(subject="rerank", accept="paper", patience=2)
    policy = guiding.policy("Rank these candidates well.")
    assert policy.info.profiling is None
    assert policy.sentences == {"reasoning_guidance": "Rank these candidates well."}
    ranked = guiding.rank("Rank these candidates well.", agp.train[:3], "train")
    assert all(user.case.profile is None for user in ranked)


def test_a_policy_without_summaries_and_one_with_another_instruction_differ_by_version(agp: World) -> None:
    guiding = agp.guiding()
    assert guiding.policy("a").digest != guiding.policy("b").digest
    assert guiding.policy("a").digest == guiding.policy("a").digest
