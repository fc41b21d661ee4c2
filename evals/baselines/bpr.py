"""Matrix factorisation with the Bayesian personalised ranking loss (Rendle et al., 2009), as `implicit` trains it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from promptailor.evals.baselines.base import ItemScorer, Sequences
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.errors import MissingExtraError


class BPR(ItemScorer):
    """Candidates by user factor times item factor; items that training never saw come last."""

    name = "bpr"

    def __init__(self, sequences: Sequences, *, seed: int, factors: int = 64, iterations: int = 100) -> None:
        try:  # an extra, and the package's other baselines do without it
            from implicit.bpr import BayesianPersonalizedRanking  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("bpr", "baselines") from error
        self._users = {user: row for row, user in enumerate(sequences)}
        self._items = {item: i for i, item in enumerate(dict.fromkeys(i for s in sequences.values() for i in s))}
        pairs = [(self._users[user], self._items[i]) for user, s in sequences.items() for i in dict.fromkeys(s)]
        rows, columns = np.array(pairs).T
        shape = (len(self._users), len(self._items))
        matrix = sparse.csr_matrix((np.ones(len(pairs), dtype=np.float32), (rows, columns)), shape=shape)
        # One thread: several update the factors without locks, and no two runs would agree.
        model = BayesianPersonalizedRanking(factors=factors, iterations=iterations, random_state=seed, num_threads=1)
        model.fit(matrix, show_progress=False)
        self._user_factors, self._item_factors = np.asarray(model.user_factors), np.asarray(model.item_factors)

    def scores(self, request: RankRequest) -> Sequence[float]:
        """Return each candidate's predicted preference."""
        row = self._users.get(request.user_id)
        if row is None:
            return [0.0] * len(request.candidates)
        known = [self._items.get(item.item_id) for item in request.candidates]
        return [-math.inf if i is None else float(self._user_factors[row] @ self._item_factors[i]) for i in known]
