"""A toy world: two kinds of users, told apart by their items, with one best prompt each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from promptailor.policies.base import StepwisePolicy, Trial
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.types import Rollout, StateInputs, Transition
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import Catalogue, PromptSpec

KINDS = "ab"
BEST = {
    "a": PromptSpec(role_playing=0, history_length=2, reasoning_guidance=1, output_format=2),
    "b": PromptSpec(role_playing=1, history_length=5, reasoning_guidance=6, output_format=0),
}
N_ITEMS = 12
HISTORY = 8


class HashEncoder:
    """Embeds a text by its hash."""

    dimension = 6

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        return [_embed(text, self.dimension) for text in texts]


@cache
def _embed(text: str, dimension: int) -> list[float]:
    row = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)).normal(size=dimension)
    unit: list[float] = (row / np.linalg.norm(row)).tolist()
    return unit


@cache
def _history(user_id: str) -> tuple[Item, ...]:
    chosen = np.random.default_rng(list(user_id.encode())).choice(N_ITEMS, HISTORY, replace=False)
    return tuple(Item(item_id=f"{user_id[0]}{n}", title=f"title {user_id[0]}{n}") for n in chosen)


@dataclass
class ToyWorld:
    """An evaluator of prompts, and a stepwise environment, over the same users and rewards."""

    catalogue: Catalogue
    n_users: int = 40
    noise: float = 0.05
    max_trials: int | None = None
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        vectors = np.random.default_rng(0).normal(0.0, 0.2, (2 * N_ITEMS, 4)).astype(np.float32)
        vectors[:N_ITEMS, 0] += 1.0
        vectors[N_ITEMS:, 0] -= 1.0
        ids = [f"{kind}{n}" for kind in KINDS for n in range(N_ITEMS)]
        tensors = {
            "vectors": vectors,
            "weights": np.ones(len(ids), np.float32),
            "user_mean": np.zeros(4, np.float32),
            "user_scale": np.ones(1, np.float32),
        }
        self.embeddings = ItemEmbeddings(ids, tensors)

    @property
    def user_ids(self) -> Sequence[str]:
        return [f"{KINDS[n % 2]}-user-{n}" for n in range(self.n_users)]

    def history(self, user_id: str) -> tuple[Item, ...]:
        return _history(user_id)

    def inputs(self, user_id: str) -> StateInputs:
        return StateInputs(history=self.history(user_id), step=0, history_length=1)

    def worth(self, user_id: str, spec: PromptSpec) -> float:
        """Return the noise-free reward: .4, and .15 for each pattern that suits the user."""
        best = BEST[user_id[0]]
        fits = [
            spec.role_playing == best.role_playing,
            spec.reasoning_guidance == best.reasoning_guidance,
            spec.output_format == best.output_format,
            max(0.0, 1 - abs(spec.history_length - best.history_length) / 3),
        ]
        return 0.4 + 0.15 * sum(fits)

    def reward(self, user_id: str, spec: PromptSpec, sample: int) -> float:
        seed = list(f"{user_id} {spec.model_dump_json()} {sample}".encode())
        return self.worth(user_id, spec) + float(np.random.default_rng(seed).normal(0.0, self.noise))

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        if self.max_trials is not None and len(self.trials) + len(trials) > self.max_trials:
            raise BudgetExceededError("calls")
        self.trials += trials
        return [self.reward(t.user_id, t.spec, t.sample_index) for t in trials]

    def rollout(
        self, policy: StepwisePolicy, user_id: str, *, n_steps: int = 2, seed: int = 0, explore: bool = True
    ) -> Rollout:
        """Play one episode; the reward of a step is that of the prompt that its agents chose."""
        inputs, steps = self.inputs(user_id), []
        manual = self.catalogue.manual_prompt
        for t in range(n_steps):
            vector = policy.observe(inputs)
            choices = {p: policy.act(p, vector, key=(seed, user_id, t), explore=explore) for p in policy.agents}
            actions: dict[str, int] = {pattern: choice.action for pattern, choice in choices.items()}
            length = min(manual.history_length, HISTORY)
            if "history_records" in actions:
                increment = actions.pop("history_records")
                length = self.catalogue.history_records.next_length(inputs.history_length, increment, HISTORY)
            spec = manual.model_copy(update={**actions, "history_length": length})
            reward = self.reward(user_id, spec, 1000 * seed + t)
            steps.append(Transition(inputs=inputs, choices=choices, reward=reward, history_length=length))
            ranking = self.history(user_id)[: 3 + t]
            inputs = StateInputs(
                history=inputs.history,
                step=t + 1,
                history_length=length,
                sentences=(f"role {spec.role_playing}", f"reasoning {spec.reasoning_guidance}"),
                prompt=spec.model_dump_json(),
                ranking=ranking,
            )
        return Rollout(user_id=user_id, transitions=tuple(steps), final_inputs=inputs)


@pytest.fixture
def toy(catalogue: Catalogue) -> ToyWorld:
    """Forty users of two kinds."""
    return ToyWorld(catalogue)


@pytest.fixture
def make_toy(catalogue: Catalogue) -> Callable[..., ToyWorld]:
    """Make a toy world with other settings."""
    return lambda **settings: ToyWorld(catalogue, **settings)


@pytest.fixture
def text_encoder() -> HashEncoder:
    """A sentence encoder that needs no model."""
    return HashEncoder()
