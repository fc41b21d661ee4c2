"""A team of agents that needs no network, and graphs over the planted world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from promptailor.app.backends.port import ModelPort
from promptailor.evals.planted import PlantedWorld
from promptailor.graph.resources import Resources
from promptailor.policies.base import PolicyInfo
from promptailor.policies.draws import sample_index, uniform
from promptailor.policies.manual import manual_policy
from promptailor.policies.types import AgentChoice, StateInputs
from promptailor.prompts.patterns import PATTERNS, Catalogue, PatternName


@dataclass(frozen=True)
class KeyedTeam:
    """Draws every action from its key and the observation: random, and the same for the same user anywhere."""

    catalogue: Catalogue
    patterns: tuple[PatternName, ...] = PATTERNS
    info: PolicyInfo = field(default_factory=lambda: PolicyInfo(name="rpp", version="keyed", n_steps=3))

    @property
    def agents(self) -> Mapping[PatternName, str]:
        return {pattern: f"Chooses the {pattern} of the prompt." for pattern in self.patterns}

    def observe(self, inputs: StateInputs) -> list[float]:
        ranking = [item.item_id for item in inputs.ranking]
        key = uniform(inputs.step, inputs.history_length, *inputs.sentences, *ranking)
        return [key, *(uniform(item.item_id) for item in inputs.history[-3:])]

    def act(
        self, pattern: PatternName, vector: Sequence[float], *, key: tuple[str | int, ...], explore: bool
    ) -> AgentChoice:
        n = self.catalogue.n_actions(pattern)
        drawn = (*key, pattern) if explore else (pattern, *map(str, vector))
        action = sample_index([1 / n] * n, *drawn)
        return AgentChoice(action=action, sentence_id=f"{pattern}-{action}", log_prob=-1.0, value=0.5)


@pytest.fixture
def resources(catalogue: Catalogue, world: PlantedWorld, planted_port: ModelPort) -> Resources:
    """Planted model, manual prompt, keyed team."""
    return Resources(
        catalogue=catalogue,
        recommender=planted_port,
        policies={"manual": manual_policy(catalogue), "rpp": KeyedTeam(catalogue)},
        items={item.item_id: item for item in world.items},
    )
