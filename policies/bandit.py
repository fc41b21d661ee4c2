"""A contextual bandit over whole prompts: RPP's question without its episode.

A language model's answer depends on its prompt alone, so nothing is gained by choosing again after seeing it: the
bandit decides once, picks the history length itself, and serves with one call. Its reward model adds up over the
patterns, so that 26 options are learned instead of 1,215 prompts; it explores by Thompson sampling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from promptailor.policies.additive import EFFECT_VARIANCE, Array, fit_additive
from promptailor.policies.base import Decision, PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.draws import sample_index
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.manual import Stopped
from promptailor.policies.prompt_space import Choice, PromptSpace
from promptailor.policies.types import StateInputs
from promptailor.prompts.errors import BudgetExceededError, MissingExtraError
from promptailor.prompts.patterns import PATTERNS, Catalogue, PatternName, PromptSpec

N_DIRECTIONS = 16
"""Leading directions of the training users' embeddings that a user is read by."""
N_DRAWS = 64
"""Models drawn from the posterior; exploration takes an option as often as they find it the best."""
UNIFORM_SHARE = 0.05
"""Share of exploration that is uniform, so that no logged propensity is near zero."""
BATCH = 100
"""Trials between two fits."""


class FactoredBandit:
    """The bandit; a `OneShotPolicy`."""

    kind: ClassVar[str] = "bandit"
    reads_embeddings: ClassVar[bool] = True

    def __init__(self, space: PromptSpace, embeddings: ItemEmbeddings, info: PolicyInfo | None = None) -> None:
        """Start untrained, with draws from the prior."""
        self.space, self.embeddings = space, embeddings
        self.info = info or PolicyInfo(name="bandit", version="unsaved")
        self.stopped: Stopped = "finished"
        rng = np.random.default_rng(0)
        self._directions: Array = np.zeros((embeddings.dimension, 0))
        # Per pattern, what a code is worth: the mean model first, then the draws; column 0 to everybody.
        self._models: dict[PatternName, Array] = {
            pattern: EFFECT_VARIANCE**0.5 * rng.standard_normal((1 + N_DRAWS, codes.shape[1], 1))
            for pattern, codes in zip(space.patterns, space.codes, strict=True)
        }

    def fit(self, evaluator: PromptEvaluator, *, calls: int, seed: int) -> None:
        """Learn from `calls` trials, the training users in turn; a spent budget ends it with what was learned."""
        users = evaluator.user_ids
        inputs = [evaluator.inputs(user) for user in users]
        self._directions = leading_directions(np.stack([self.embeddings.user(i.history) for i in inputs]))
        self._models = {p: np.pad(m, ((0, 0), (0, 0), (0, self._directions.shape[1]))) for p, m in self._models.items()}
        features = np.stack([self._features(i) for i in inputs])
        choices: list[Choice] = []
        rewards: list[float] = []
        for start in range(0, calls, BATCH):
            turns = range(start, min(start + BATCH, calls))
            new = [self._choose(inputs[t % len(users)], ("bandit", seed, t), explore=True)[0] for t in turns]
            trials = [
                Trial(user_id=users[t % len(users)], spec=self.space.spec(choice), sample_index=t // len(users))
                for t, choice in zip(turns, new, strict=True)
            ]
            try:
                rewards += evaluator.rewards(trials)
            except BudgetExceededError as error:
                self.stopped = error.stopped
                return
            choices += new
            turn = np.arange(len(choices)) % len(features)
            self._learn(choices, np.array(rewards), features[turn], turn, seed)

    def learn(
        self,
        inputs: Sequence[StateInputs],
        users: Sequence[str],
        specs: Sequence[PromptSpec],
        rewards: Array,
        seed: int,
    ) -> None:
        """Learn from a log of prompts that somebody chose, such as users' feedback; what was learned before is dropped.

        Args:
            inputs: what was known of the user, one per row.
            users: whose row it is; rows of one user share how easily she is pleased.
            specs: the prompts.
            rewards: shape (n,), in [0, 1].
            seed: keys the draws that exploration takes options by.
        """
        names = sorted(set(users))
        first = {user: row for row, user in reversed([*enumerate(users)])}
        self._directions = leading_directions(np.stack([self.embeddings.user(inputs[first[n]].history) for n in names]))
        features = np.stack([self._features(one) for one in inputs])
        numbers = {name: number for number, name in enumerate(names)}
        places = np.array([numbers[user] for user in users])
        self._learn([self.space.choice(spec) for spec in specs], rewards, features, places, seed)

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        """Choose a prompt; when exploring, also say with which propensity each pattern's option was drawn."""
        choice, propensities = self._choose(inputs, key, explore=explore)
        return Decision(spec=self.space.spec(choice), probabilities=propensities)

    def _choose(
        self, inputs: StateInputs, key: tuple[str | int, ...], *, explore: bool
    ) -> tuple[Choice, dict[PatternName, float]]:
        reading = np.concatenate([[1.0], self._features(inputs)])
        choice: list[int] = []
        propensities: dict[PatternName, float] = {}
        for pattern, codes in zip(self.space.patterns, self.space.codes, strict=True):
            worth = (self._models[pattern] @ reading) @ codes.T
            if pattern == "history_records":
                worth[:, self._too_long(inputs)] = -np.inf
            if pattern == "user_profile":
                worth[:, self._unknown(inputs)] = -np.inf
            if explore:
                votes = np.bincount(worth[1:].argmax(axis=1), minlength=len(codes)) / N_DRAWS
                possible = np.isfinite(worth[0])
                chances = ((1 - UNIFORM_SHARE) * votes + UNIFORM_SHARE * possible / possible.sum()).tolist()
                choice.append(sample_index(chances, *key, pattern))
                propensities[pattern] = chances[choice[-1]]
            else:
                choice.append(int(worth[0].argmax()))
        return tuple(choice), propensities

    def _too_long(self, inputs: StateInputs) -> NDArray[np.bool_]:
        """Return which lengths the user's history cannot fill; the shortest is always possible."""
        longest = max(len(inputs.history), min(self.space.lengths))
        return np.array([length > longest for length in self.space.lengths])

    def _unknown(self, inputs: StateInputs) -> NDArray[np.bool_]:
        """Return which sets of profile fields are not all known; the empty one always is."""
        subsets = self.space.catalogue.user_profile.subsets
        return np.array([not set(subset) <= set(inputs.profile) for subset in subsets])

    def _features(self, inputs: StateInputs) -> Array:
        features: Array = self.embeddings.user(inputs.history) @ self._directions
        return features

    def _learn(
        self, choices: list[Choice], rewards: Array, features: Array, users: NDArray[np.int64], seed: int
    ) -> None:
        """Refit the mean model and draw new ones; features and users have one row per choice."""
        model = fit_additive(self.space.design(choices), [features] * len(self.space.patterns), rewards, users)
        models = [(model.shared, model.personal), *model.sample(N_DRAWS, seed)]
        self._models = {
            pattern: np.stack([np.column_stack([shared[k], personal[k]]) for shared, personal in models])
            for k, pattern in enumerate(self.space.patterns)
        }

    @property
    def digest(self) -> str:
        """Hex digest of everything that was learned."""
        digest = hashlib.sha256()
        for name, tensor in self._tensors().items():
            digest.update(f"{name}{tensor.shape}".encode() + tensor.tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write `policy.json` and `policy.safetensors`."""
        settings = {"patterns": self.space.patterns, "sentences": self.space.sentences}
        (folder / "policy.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        (folder / "policy.safetensors").write_bytes(_safetensors().save(self._tensors()))

    @classmethod
    def load(
        cls, folder: Path, info: PolicyInfo, *, catalogue: Catalogue, embeddings: ItemEmbeddings
    ) -> FactoredBandit:
        """Read what `save` wrote; use `checkpoint.load_policy`, which checks that the files fit."""
        path = folder / "policy.json"  # the first saved bandits had none: they chose all of the four patterns
        settings: dict[str, Any] = {"patterns": PATTERNS, "sentences": None}
        if path.exists():
            settings = json.loads(path.read_text("utf-8"))
        space = PromptSpace(catalogue, patterns=tuple(settings["patterns"]), sentences=settings["sentences"])
        bandit = cls(space, embeddings, info)
        tensors = _safetensors().load((folder / "policy.safetensors").read_bytes())
        bandit._directions = tensors["directions"]
        bandit._models = {pattern: tensors[pattern] for pattern in space.patterns}
        return bandit

    def _tensors(self) -> dict[str, Array]:
        models = {str(pattern): np.ascontiguousarray(model) for pattern, model in self._models.items()}
        return models | {"directions": np.ascontiguousarray(self._directions)}


def leading_directions(users: NDArray[np.float32]) -> Array:
    """Return the leading right singular vectors, shape (dim, n)."""
    _, _, right = np.linalg.svd(users.astype(np.float64), full_matrices=False)
    directions: Array = right[:N_DIRECTIONS].T
    return directions


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy  # noqa: PLC0415 - optional extra; the bandit itself needs numpy only
    except ImportError:
        raise MissingExtraError("saving and loading a bandit", "local") from None
    return safetensors.numpy
