"""A reward model: what prompts are worth to users, learned from rewards that were paid for, so that a policy can be
trained with no LLM in the loop (the future work of RPP, section 6).

The model is the additive one of `policies.additive`, over prompts as they were shown and users as their embeddings say.
What it leaves out is what an additive model leaves out: that two sentences suit each other, and what a ranking tells
about the user. An episode played against it therefore has no ranking in its states, and the policy must not read any
(`pooling="none"`), or it would meet rankings for the first time when it serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from promptailor.policies.actions import prompt_of_actions
from promptailor.policies.additive import AdditiveModel, Array, fit_additive, length_codes
from promptailor.policies.bandit import leading_directions
from promptailor.policies.base import StepwisePolicy, Trial
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.types import PaidReward, Rollout, StateInputs, Transition
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, PatternName, PromptSpec


class RewardModel:
    """Predicts the reward of a prompt for a user; a `PromptEvaluator` over the users it is given."""

    def __init__(self, catalogue: Catalogue, embeddings: ItemEmbeddings, users: Mapping[str, StateInputs]) -> None:
        """Start without data.

        Args:
            catalogue: the patterns.
            embeddings: how users are known.
            users: what is known of every training user at step 0.
        """
        self.catalogue, self._users = catalogue, users
        vectors = np.stack([embeddings.user(inputs.history) for inputs in users.values()])
        self._features = dict(zip(users, vectors @ leading_directions(vectors), strict=True))
        self._lengths = length_codes(catalogue.history_records.max_length)
        self.patterns: tuple[PatternName, ...] = ()
        """Patterns that varied in what it was fitted to; the others count as what was shown then."""
        self._model: AdditiveModel | None = None

    def fit(self, rewards: Sequence[PaidReward]) -> AdditiveModel:
        """Fit the model to trials of the users; return it.

        Raises:
            InputError: all of them are of one prompt.
        """
        known: tuple[PatternName, ...] = get_args(PatternName)
        self.patterns = tuple(p for p in known if len({_option(row.spec, p) for row in rewards}) > 1)
        if not self.patterns:
            raise InputError("rewards: all are of one prompt, so that none can be said to be better; name another run")
        numbers = {user: number for number, user in enumerate(self._users)}
        self._model = fit_additive(
            self._codes([(row.user_id, row.spec) for row in rewards]),
            [np.stack([self._features[row.user_id] for row in rewards])] * len(self.patterns),
            np.array([row.reward for row in rewards]),
            np.array([numbers[row.user_id] for row in rewards]),
        )
        return self._model

    @property
    def user_ids(self) -> Sequence[str]:
        """The training users."""
        return tuple(self._users)

    def inputs(self, user_id: str) -> StateInputs:
        """The user's state at step 0."""
        return self._users[user_id]

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        """Predict the reward of each trial: the same however often it is tried, and not held between 0 and 1."""
        assert self._model is not None, "`fit` comes first"
        codes = self._codes([(trial.user_id, trial.spec) for trial in trials])
        features = np.stack([self._features[trial.user_id] for trial in trials])
        predicted = np.full(len(trials), self._model.intercept)
        for code, shared, personal in zip(codes, self._model.shared, self._model.personal, strict=True):
            predicted += code @ shared + ((code @ personal) * features).sum(axis=1)
        values: list[float] = predicted.tolist()
        return values

    def _codes(self, shown: Sequence[tuple[str, PromptSpec]]) -> list[Array]:
        """Return per pattern what was shown, shape (n, n_codes); a sentence left out is a row of zeros."""
        codes: list[Array] = []
        for pattern in self.patterns:
            if pattern == "history_records":
                longest = len(self._lengths) - 1
                lengths = [min(s.history_length, len(self._users[u].history), longest) for u, s in shown]
                codes.append(self._lengths[lengths])
                continue
            rows = np.zeros((len(shown), self.catalogue.n_actions(pattern)))
            for row, (_, spec) in zip(rows, shown, strict=True):
                if (action := _option(spec, pattern)) is not None:
                    row[action] = 1.0
            codes.append(rows)
        return codes


def play(
    policy: StepwisePolicy,
    model: RewardModel,
    starts: Sequence[tuple[str, StateInputs]],
    *,
    until_step: int,
    seed: int,
    domain: str,
) -> list[Rollout]:
    """Play some steps of each user's episode against a reward model, as the rank graph would play them.

    Args:
        policy: explores; it must not read rankings, of which there are none.
        model: answers.
        starts: user and state; of step 0, or the `final_inputs` of an earlier call.
        until_step: the first step that is not played.
        seed: keys the draws, with user and step.
        domain: fills the sentences that the next state reads.
    """
    rollouts = []
    for user_id, start in starts:
        inputs, steps = start, list[Transition]()
        while inputs.step < until_step:
            vector = policy.observe(inputs)
            key = (seed, user_id, inputs.step)
            choices = {p: policy.act(p, vector, key=key, explore=True) for p in policy.agents}
            spec = prompt_of_actions(
                model.catalogue,
                {pattern: choice.action for pattern, choice in choices.items()},
                length_before=inputs.history_length,
                available=len(inputs.history),
            )
            (reward,) = model.rewards([Trial(user_id=user_id, spec=spec)])
            length, sentences = spec.history_length, _sentences(model.catalogue, spec, domain)
            steps.append(Transition(inputs=inputs, choices=choices, reward=reward, history_length=length))
            inputs = replace(inputs, step=inputs.step + 1, history_length=length, sentences=sentences)
        rollouts.append(Rollout(user_id=user_id, transitions=tuple(steps), final_inputs=inputs))
    return rollouts


def _option(spec: PromptSpec, pattern: PatternName) -> int | None:
    option: int | None = spec.history_length if pattern == "history_records" else getattr(spec, pattern)
    return option


def _sentences(catalogue: Catalogue, spec: PromptSpec, domain: str) -> tuple[str, ...]:
    chosen = ((pattern, getattr(spec, pattern)) for pattern in SENTENCE_PATTERNS)
    return tuple(catalogue.fill(catalogue.sentences(p)[action], domain) for p, action in chosen if action is not None)
