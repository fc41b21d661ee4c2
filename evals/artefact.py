"""A warning in numbers: what a protocol that shares its slots does to a ranker that knows nothing.

The code released with RPP draws one permutation of the candidates per round and uses it for every user, training and
test users alike, then reports the round that was best. The relevant item stands at the same place for everybody, so
that a ranker which only copies the order it is shown scores 1 in every round that happens to put it first; and because
test rounds repeat the draws of training rounds, choosing the round on training users looks like honest model selection
and hands the luck over. Here the same rankers go through that protocol and through ours, where every user has an order
of their own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from promptailor.evals import metrics
from promptailor.evals.baselines.base import Method
from promptailor.evals.metrics import PRIMARY
from promptailor.evals.statistics import Array
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import uniform
from promptailor.prompts.assemble import permute
from promptailor.prompts.domain import Model, RankRequest

ProtocolName = Literal["shared", "balanced"]
"""`shared`: one permutation per round for all users. `balanced`: one per round and user, as this package has it."""
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
Ranker = Callable[[int], Method]
"""Makes the method that ranks in the draw of that number; only a random order needs to know it."""

COPIES = "shown order"
"""Name of the ranker that returns the candidates as it is shown them."""
RELEASED_SLOT = 5
"""Place (0-based) at which the released code puts the relevant item before it permutes the list."""
N_ROUNDS = 15
"""Rounds of the paper's loop."""
N_REPEATS = 40
"""Repetitions of the whole loop, so that the luck of one draw is not the finding."""


class Round(Model):
    """One round: all users ranked once."""

    train: float
    """Mean NDCG@10 of the training users."""
    test: float
    """Mean NDCG@10 of the test users."""


class Selected(Model):
    """Test users' mean NDCG@10 in the round, of the first `n_rounds`, that was best on training users."""

    n_rounds: int
    mean: float
    """Over the repetitions."""
    low: float
    high: float
    """The middle 90 % of the repetitions."""
    perfect: float
    """Share of the repetitions in which every test user had the relevant item first."""


class Finding(Model):
    """One ranker under one protocol."""

    protocol: ProtocolName
    ranker: str
    rounds: tuple[Round, ...]
    """Of the first repetition."""
    selected: tuple[Selected, ...]
    """For 1, 2, ... rounds to choose from."""


class ArtefactStudy(Model):
    """Every ranker under both protocols."""

    dataset: str
    n_train: int
    n_test: int
    n_candidates: int
    n_repeats: int
    chance: float
    """NDCG@10 of a random order."""
    findings: tuple[Finding, ...]


def study_artefact(
    train: Sequence[EvalCase],
    test: Sequence[EvalCase],
    rankers: Mapping[str, Ranker],
    *,
    dataset: str,
    seed: int,
    n_rounds: int = N_ROUNDS,
    n_repeats: int = N_REPEATS,
    progress: Callable[[int], None] = lambda _: None,
) -> ArtefactStudy:
    """Run the loop of the released code, and the same loop with an order per user.

    Args:
        train: the users whose best round is picked.
        test: the users that it is reported on.
        rankers: by name; they see requests, as every method does.
        dataset: what the cases are of, for the record.
        seed: keys every permutation.
        n_rounds: rounds of the loop.
        n_repeats: repetitions with other permutations.
        progress: told of every finished repetition.
    """
    findings = []
    for protocol in PROTOCOLS:
        for name, ranker in rankers.items():
            scores = np.empty((n_repeats, n_rounds, 2))
            for repeat in range(n_repeats):
                for number in range(n_rounds):
                    draw = repeat * n_rounds + number
                    method = ranker(draw)
                    scores[repeat, number] = [_mean_ndcg(protocol, method, c, seed, draw) for c in (train, test)]
                progress(1)
            rounds = tuple(Round(train=a, test=b) for a, b in scores[0].tolist())
            findings.append(Finding(protocol=protocol, ranker=name, rounds=rounds, selected=_selected(scores)))
    n_candidates = len(test[0].request.candidates)
    return ArtefactStudy(
        dataset=dataset,
        n_train=len(train),
        n_test=len(test),
        n_candidates=n_candidates,
        n_repeats=n_repeats,
        chance=metrics.chance(n_candidates)[PRIMARY],
        findings=tuple(findings),
    )


def expected_best_order(n_candidates: int, n_rounds: int) -> float:
    """Return the expected NDCG@10 of copying the shown order, in the luckiest of `n_rounds` shared slots, exactly.

    The best of n rounds is slot s or a better one with probability 1 - (1 - (s + 1) / M)^n.
    """
    gains = [metrics.score([str(i) for i in range(n_candidates)], str(s))[PRIMARY] for s in range(n_candidates)]
    reached = [1 - (1 - (s + 1) / n_candidates) ** n_rounds for s in range(n_candidates)]
    chances = [reached[0], *(b - a for a, b in pairwise(reached))]
    return sum(gain * chance for gain, chance in zip(gains, chances, strict=True))


def _mean_ndcg(protocol: ProtocolName, method: Method, cases: Sequence[EvalCase], seed: int, draw: int) -> float:
    answers = method.rank([_shown(protocol, case, seed, draw) for case in cases])
    scored = zip(answers, cases, strict=True)
    return float(np.mean([metrics.score(a.ranking, c.relevant_item_id)[PRIMARY] for a, c in scored]))


def _shown(protocol: ProtocolName, case: EvalCase, seed: int, draw: int) -> RankRequest:
    """Return the request with its candidates in the order the round shows them."""
    candidates = case.request.candidates
    if protocol == "balanced":
        return case.request.model_copy(update={"candidates": permute(candidates, seed, case.user_id, draw)})
    negatives = [item for item in candidates if item.item_id != case.relevant_item_id]
    relevant = [item for item in candidates if item.item_id == case.relevant_item_id]
    slot = min(RELEASED_SLOT, len(negatives))
    built = [*negatives[:slot], *relevant, *negatives[slot:]]
    places = list(range(len(built)))
    random.Random(uniform("shared slot", seed, draw)).shuffle(places)
    return case.request.model_copy(update={"candidates": tuple(built[place] for place in places)})


def _selected(scores: Array) -> tuple[Selected, ...]:
    """Return what choosing the round on training users gives on test users; `scores` is (repeat, round, 2)."""
    repeats, found = np.arange(len(scores)), []
    for n_rounds in range(1, scores.shape[1] + 1):
        picked = scores[repeats, scores[:, :n_rounds, 0].argmax(axis=1), 1]
        low, high = np.quantile(picked, [0.05, 0.95])
        found.append(
            Selected(
                n_rounds=n_rounds,
                mean=float(picked.mean()),
                low=float(low),
                high=float(high),
                perfect=float((picked == 1.0).mean()),
            )
        )
    return tuple(found)
