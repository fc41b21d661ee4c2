"""Where a gain comes from: one prompt for everybody, one per segment, one per user, and the ceiling above them.

A table that only says "the policy beats the manual prompt" cannot tell a better prompt from a personal one. Here the
single prompt is tuned on the same validation users as everything else, so that the step from it to the policy is what
personalisation is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from promptailor.evals.statistics import Array, Comparison, Estimate, compare, estimate, ratio_estimate
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import InputError

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RewardMatrices:
    """Rewards of every prompt for every user, and of the policy."""

    rewards: Array
    """Shape (n_users, n_prompts): test users, on one permutation of their candidates."""
    fresh: Array
    """Shape (n_users, n_prompts): the same on fresh permutations."""
    segments: Labels
    """Shape (n_users,): segment of each test user, for example a cluster of user embeddings."""
    policy: Array
    """Shape (n_users,): the policy's reward, on the permutation of `rewards`."""
    validation: Array
    """Shape (n_validation_users, n_prompts): what the single and the segments' prompts are chosen on."""
    validation_segments: Labels
    """Shape (n_validation_users,)."""
    optimum: Array | None = None
    """Shape (n_users,): planted worlds know the noise-free reward of the best reachable prompt."""

    def check(self) -> None:
        """Raise `InputError` where shapes do not fit together or there is nobody to choose on."""
        n_users, n_prompts = self.rewards.shape
        wanted = {
            "fresh": (n_users, n_prompts),
            "segments": (n_users,),
            "policy": (n_users,),
            "validation": (len(self.validation), n_prompts),
            "validation_segments": (len(self.validation),),
        }
        for name, shape in wanted.items():
            if (found := getattr(self, name).shape) != shape:
                raise InputError(f"{name}: shape {found} does not fit rewards of shape {(n_users, n_prompts)}")
        if not n_users or not len(self.validation):
            raise InputError("rewards, validation: each needs at least one user")


class Decomposition(Model):
    """Mean reward per way of choosing a prompt, each over the same test users."""

    best_single: Estimate
    """The prompt that is best on validation users, for everybody."""
    per_segment: Estimate
    """The prompt that is best on the validation users of the user's segment."""
    policy: Estimate
    oracle: Estimate
    """The prompt that was best for the user, after the fact: more than anything can reach (winner's curse)."""
    oracle_corrected: Estimate
    """The oracle's choices scored on fresh permutations: the ceiling."""
    share_of_headroom: Estimate | None
    """(policy - best single) / (corrected oracle - best single); None where no headroom is shown."""
    optimum: Estimate | None = None
    gains: tuple[Comparison, ...]
    """Paired: each step of the ladder, the policy over the best single prompt, and the headroom itself."""
    best_prompt: int
    """Column of the best single prompt."""
    n_prompts: int
    n_segments: int


def decompose(matrices: RewardMatrices, *, seed: int) -> Decomposition:
    """Split the policy's gain into its steps.

    Ties are broken by the validation mean everywhere, the oracle's included, so that a user for whom many prompts are
    equally good gets the best of them for others.

    Raises:
        InputError: the matrices do not fit together.
    """
    matrices.check()
    users = np.arange(len(matrices.rewards))
    by_validation = np.argsort(-matrices.validation.mean(axis=0), kind="stable")
    single = int(by_validation[0])
    chosen = {int(s): single for s in np.unique(matrices.segments)}
    for segment in chosen.keys() & set(matrices.validation_segments.tolist()):
        members = matrices.validation[matrices.validation_segments == segment]
        chosen[segment] = _best(members.mean(axis=0), by_validation)
    favourite = np.array([_best(row, by_validation) for row in matrices.rewards])
    scores: dict[str, Array] = {
        "best_single": matrices.rewards[:, single],
        "per_segment": matrices.rewards[users, [chosen[int(s)] for s in matrices.segments]],
        "policy": matrices.policy,
        "oracle": matrices.rewards[users, favourite],
        "oracle_corrected": matrices.fresh[users, favourite],
    }
    steps = [
        ("per_segment", "best_single"),
        ("policy", "per_segment"),
        ("policy", "best_single"),
        ("oracle_corrected", "best_single"),
    ]
    gains = compare(scores, steps, key=(seed, "decomposition"), planned=True)
    return Decomposition(
        **{name: estimate(values, key=(seed, "decomposition", "means")) for name, values in scores.items()},
        share_of_headroom=_share(scores, gains[-1], seed),
        optimum=None if matrices.optimum is None else estimate(matrices.optimum, key=(seed, "decomposition", "means")),
        gains=tuple(gains),
        best_prompt=single,
        n_prompts=matrices.rewards.shape[1],
        n_segments=len(chosen),
    )


def _best(means: Array, preference: NDArray[np.intp]) -> int:
    """Return the column with the highest mean, ties in the order of `preference`."""
    return int(preference[np.argmax(means[preference])])


def _share(scores: dict[str, Array], headroom: Comparison, seed: int) -> Estimate | None:
    if headroom.low <= 0:  # a ratio whose denominator may be zero says nothing
        return None
    single = scores["best_single"]
    return ratio_estimate(
        scores["policy"] - single, scores["oracle_corrected"] - single, key=(seed, "decomposition", "share")
    )
