"""A factored contextual bandit: one decision, one call, the alternative to RPP that spends least.

The reward of a prompt is modelled as a sum over patterns (`policies.additive`): what a choice is worth to everybody,
and what it is worth to this user as far as that can be trusted. Training explores by Thompson sampling: a choice is
made as often as draws from the posterior find it best, and that frequency is its propensity, stored with the reward so
that other policies can be estimated from the same log.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from promptailor.policies.additive import AdditiveModel, fit_additive
from promptailor.policies.base import Decision, PolicyInfo, PromptEvaluator, Trial
from promptailor.policies.draws import sample_index, uniform
from promptailor.policies.search_space import HISTORY_LENGTHS
from promptailor.policies.types import StateInputs
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import PATTERNS, Catalogue, PromptSpec

Array = NDArray[np.float64]


class UserEmbeddings(Protocol):
    """Where a user's features come from."""

    @property
    def dimension(self) -> int:
        """Length of a user's vector."""
        ...

    def user(self, history: Sequence[Item]) -> NDArray[np.float32]:
        """Embed a user by history; zeros for an empty one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditConfig:
    """How the bandit explores."""

    calls_per_round: int = 200
    """Calls between two fits."""
    warm_up: int = 400
    """Calls of uniform choices before the first fit."""
    n_draws: int = 64
    """Draws from the posterior; a propensity is a multiple of 1 / n_draws, mixed with `floor`."""
    floor: float = 0.05
    """Share of uniform choices, so that no propensity is zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDecision:
    """One call of the training log."""

    user_id: str
    choices: tuple[int, ...]
    """Per pattern, in the order of `PATTERNS`; the history's is an index into `HISTORY_LENGTHS`."""
    propensities: tuple[float, ...]
    reward: float


Weights = tuple[tuple[Array, ...], tuple[Array, ...]]
"""Per pattern: worth to everybody, shape (n_choices,), and to a user, shape (n_choices, dimension)."""


class FactoredBandit:
    """A `OneShotPolicy` that chooses a whole prompt, its history length included."""

    def __init__(
        self,
        catalogue: Catalogue,
        embeddings: UserEmbeddings,
        config: BanditConfig | None = None,
        *,
        info: PolicyInfo | None = None,
    ) -> None:
        """Make an untrained bandit, which chooses uniformly when it explores."""
        self.catalogue, self.embeddings, self.config = catalogue, embeddings, config or BanditConfig()
        self.lengths = tuple(length for length in HISTORY_LENGTHS if length <= catalogue.history_records.max_length)
        self.log: list[LoggedDecision] = []
        self.stopped: Literal["finished", "budget"] = "finished"
        self._info = info
        self._mean: Weights | None = None
        self._draws: list[Weights] = []

    @property
    def info(self) -> PolicyInfo:
        """Name, version, users it has seen; one call per request."""
        return self._info or PolicyInfo(name="bandit", version="untrained")

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        """Choose for one user: the best by the posterior mean, or when exploring a Thompson sample."""
        features = self._features(inputs)
        if explore or self._mean is None:
            chances = self._propensities(features)
            choices = [sample_index(p.tolist(), *key, name) for name, p in zip(PATTERNS, chances, strict=True)]
            probabilities = {name: float(p[choice]) for name, p, choice in zip(PATTERNS, chances, choices, strict=True)}
            return Decision(spec=self._spec(choices), probabilities=probabilities)
        return Decision(spec=self._spec([int(worth.argmax()) for worth in _worths(self._mean, features)]))

    def fit(self, evaluator: PromptEvaluator, *, calls: int, seed: int) -> None:
        """Learn from calls on the evaluator's users; on a spent budget what was learned so far stays."""
        spent = 0
        while spent < calls:
            n = min(self.config.calls_per_round, calls - spent)
            users = self._users(evaluator.user_ids, spent, n, seed)
            decisions = [
                self.choose(evaluator.inputs(user), key=(seed, user, spent + place), explore=True)
                for place, user in enumerate(users)
            ]
            trials = [
                Trial(user_id=user, spec=decision.spec, sample_index=(spent + place) // len(evaluator.user_ids))
                for place, (user, decision) in enumerate(zip(users, decisions, strict=True))
            ]
            try:
                rewards = evaluator.rewards(trials)
            except BudgetExceededError:
                self.stopped = "budget"
                break
            self.log += [
                LoggedDecision(
                    user_id=user,
                    choices=self._choices(decision.spec),
                    propensities=tuple(decision.probabilities[name] for name in PATTERNS),
                    reward=reward,
                )
                for user, decision, reward in zip(users, decisions, rewards, strict=True)
            ]
            spent += n
            if spent >= self.config.warm_up or spent >= calls:
                self._refit(evaluator, seed)

    def save(self, folder: Path) -> None:
        """Write `bandit.json`, `bandit.safetensors` and the training log with its propensities."""
        from safetensors.numpy import save  # noqa: PLC0415 - optional extra

        content = {"config": asdict(self.config), "lengths": self.lengths}
        (folder / "bandit.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        (folder / "log.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.log), "utf-8")
        weights = [self._mean, *self._draws] if self._mean else []
        tensors = {
            f"{name}.{kind}": np.stack([draw[side][place] for draw in weights]).astype(np.float32)
            for side, kind in enumerate(("shared", "personal"))
            for place, name in enumerate(PATTERNS)
            if weights
        }
        (folder / "bandit.safetensors").write_bytes(save(tensors))

    @classmethod
    def load(
        cls, folder: Path, info: PolicyInfo, *, catalogue: Catalogue, embeddings: UserEmbeddings
    ) -> FactoredBandit:
        """Read what `save` wrote, without the log; use `checkpoint.load_policy`, which checks that the files fit."""
        from safetensors.numpy import load  # noqa: PLC0415 - optional extra

        content = json.loads((folder / "bandit.json").read_text("utf-8"))
        bandit = cls(catalogue, embeddings, BanditConfig(**content["config"]), info=info)
        bandit.lengths = tuple(content["lengths"])
        tensors = {name: t.astype(np.float64) for name, t in load((folder / "bandit.safetensors").read_bytes()).items()}
        if tensors:
            n = len(tensors[f"{PATTERNS[0]}.shared"])
            weights = [
                (
                    tuple(tensors[f"{name}.shared"][row] for name in PATTERNS),
                    tuple(tensors[f"{name}.personal"][row] for name in PATTERNS),
                )
                for row in range(n)
            ]
            bandit._mean, bandit._draws = weights[0], weights[1:]
        return bandit

    def _refit(self, evaluator: PromptEvaluator, seed: int) -> None:
        users = sorted({row.user_id for row in self.log})
        number = {user: n for n, user in enumerate(users)}
        by_user = np.stack([self._features(evaluator.inputs(user)) for user in users])
        numbers = np.array([number[row.user_id] for row in self.log])
        choices = np.array([row.choices for row in self.log])
        sizes = [len(p) for p in self._propensities(by_user[0])]
        model: AdditiveModel = fit_additive(
            [np.eye(size)[choices[:, place]] for place, size in enumerate(sizes)],
            [by_user[numbers]] * len(sizes),
            np.array([row.reward for row in self.log]),
            numbers,
        )
        self._mean = (model.shared, model.personal)
        self._draws = model.sample(self.config.n_draws, seed=int(uniform("bandit", seed, len(self.log)) * 2**31))

    def _propensities(self, features: Array) -> list[Array]:
        """Return per pattern how often each choice is found best, mixed with a floor of uniform choices."""
        sizes = [
            len(self.lengths) if name == "history_records" else self.catalogue.n_actions(name) for name in PATTERNS
        ]
        if not self._draws:
            return [np.full(size, 1.0 / size) for size in sizes]
        best = [[int(worth.argmax()) for worth in _worths(draw, features)] for draw in self._draws]
        chances = []
        for place, size in enumerate(sizes):
            counts = Counter(row[place] for row in best)
            frequency = np.array([counts[choice] for choice in range(size)]) / len(best)
            chances.append((1 - self.config.floor) * frequency + self.config.floor / size)
        return chances

    def _features(self, inputs: StateInputs) -> Array:
        """Return the user's vector, shape (dimension,), scaled to a norm of about one."""
        features: Array = self.embeddings.user(inputs.history).astype(np.float64) / self.embeddings.dimension**0.5
        return features

    def _users(self, user_ids: Sequence[str], spent: int, n: int, seed: int) -> list[str]:
        """Return whose turn it is: all users once, in an order drawn anew for every pass."""
        turns = range(spent, spent + n)
        orders = {
            turn: sorted(user_ids, key=lambda user: uniform("bandit users", seed, turn, user))
            for turn in {t // len(user_ids) for t in turns}
        }
        return [orders[t // len(user_ids)][t % len(user_ids)] for t in turns]

    def _spec(self, choices: Sequence[int]) -> PromptSpec:
        role, length, reasoning, output = choices
        return PromptSpec(
            role_playing=role,
            history_length=self.lengths[length],
            reasoning_guidance=reasoning,
            output_format=output,
        )

    def _choices(self, spec: PromptSpec) -> tuple[int, ...]:
        role, reasoning, output = spec.role_playing, spec.reasoning_guidance, spec.output_format
        assert role is not None, "the bandit leaves no pattern out"
        assert reasoning is not None, "the bandit leaves no pattern out"
        assert output is not None, "the bandit leaves no pattern out"
        return role, self.lengths.index(spec.history_length), reasoning, output


def _worths(weights: Weights, features: Array) -> list[Array]:
    """Return per pattern what each choice is worth to a user with these features."""
    return [shared + personal @ features for shared, personal in zip(*weights, strict=True)]
