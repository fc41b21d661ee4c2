"""Whether a change of a prompt may stay: a paired test on users who had no part in proposing it.

Prompt optimisers that keep a rewrite when it does better on the batch it was written for (AGP as published) keep about
half of those that change nothing. Here the users are held out, and the chance of keeping anything useless is bounded
over a whole run, not per round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Model

AcceptRule = Literal["test", "paper"]
"""`test`: a paired test on held-out users. `paper`: strictly better on the batch that gave the feedback (AGP)."""

ALPHA = 0.05
N_FLIPS = 20_000
N_RESAMPLES = 2_000

Key = tuple[str | int, ...]


class Verdict(Model):
    """Whether a change was accepted, and what it was judged by."""

    accepted: bool
    n_users: int
    after: float
    """Mean score with the change."""
    difference: float
    """Mean over the users of what they scored after the change minus before; higher is better."""
    low: float
    high: float
    """95 % bootstrap interval of the difference."""
    p: float | None = None
    """One-sided; None where no test was made."""
    alpha: float | None = None
    """What `p` had to stay below or equal."""


@dataclass(kw_only=True)
class AcceptanceTest:
    """Judges the changes of one run in turn, and bounds the chance that any of the useless ones is accepted.

    The k-th test has alpha_k = alpha / (k (k + 1)), which adds up to less than alpha over any number of rounds; an
    accepted change hands its alpha_k on to the next round (online fallback; Tian and Ramdas, 2021, "Online control of
    the familywise error rate", where it is shown to hold for p-values of any dependence). So the rounds need not be
    independent, nor their number known before, and a run that finds improvements does not tire. Where the number is
    known, each round gets the same share of alpha (the fallback procedure; Wiens, 2003).
    """

    alpha: float = ALPHA
    rounds: int | None = None
    """How many rounds there are at most; None where nobody knows before."""
    verdicts: list[Verdict] = field(default_factory=list)
    """Of all rounds so far."""

    @property
    def next_alpha(self) -> float:
        """What the p-value of the next change must not exceed."""
        number = len(self.verdicts) + 1
        last = self.verdicts[-1] if self.verdicts else None
        handed_on = last.alpha if last and last.accepted and last.alpha else 0.0
        share = 1 / (number * (number + 1)) if self.rounds is None else (number <= self.rounds) / self.rounds
        return self.alpha * share + handed_on

    def judge(self, before: Sequence[float], after: Sequence[float], *, key: Key) -> Verdict:
        """Test one change and count it as a round.

        Args:
            before: scores of held-out users without the change, higher better.
            after: scores of the same users, in the same order, with it.
            key: seeds the resampling.
        """
        differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
        alpha, p = self.next_alpha, sign_flip_p(differences, key=key)
        verdict = _verdict(differences, after, p <= alpha, key=key, p=p, alpha=alpha)
        self.verdicts.append(verdict)
        return verdict


def accept_on_batch(before: Sequence[float], after: Sequence[float], *, key: Key) -> Verdict:
    """Accept a change that does strictly better on average on the batch it was proposed for, as AGP's code does."""
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return _verdict(differences, after, bool(differences.mean() > 0), key=key)


def sign_flip_p(differences: NDArray[np.float64], *, key: Key) -> float:
    """Return the one-sided p-value of "the mean is at most zero" (Fisher's paired permutation test).

    Exact where a change without effect makes every difference symmetric around 0; the observed signs count as one of
    the draws, so no p-value is 0.

    Args:
        differences: one per user, shape (n_users,); at least one.
        key: seeds the draws.
    """
    varying = differences[differences != 0]
    packed = _generator("flips", *key).integers(256, size=(N_FLIPS, -(-len(varying) // 8)), dtype=np.uint8)
    flipped = np.unpackbits(packed, axis=1, count=len(varying)).astype(np.float64)
    lost = flipped @ varying  # half of what flipping takes off the sum
    tolerance = 1e-12 * np.abs(varying).sum()  # equal sums that differ by rounding count as equal
    return (1.0 + float((lost <= tolerance).sum())) / (N_FLIPS + 1.0)


def _verdict(
    differences: NDArray[np.float64],
    after: Sequence[float],
    accepted: bool,
    *,
    key: Key,
    p: float | None = None,
    alpha: float | None = None,
) -> Verdict:
    n_users = len(differences)
    draws = _generator("resamples", *key).integers(n_users, size=(N_RESAMPLES, n_users))
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975)).tolist()
    mean = float(differences.mean())
    return Verdict(
        accepted=accepted,
        n_users=n_users,
        after=float(np.mean(after)),
        difference=mean,
        low=min(low, mean),
        high=max(high, mean),
        p=p,
        alpha=alpha,
    )


def _generator(*key: str | int) -> np.random.Generator:
    return np.random.default_rng(int(uniform("acceptance", *key) * 2.0**56))
