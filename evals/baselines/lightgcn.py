"""LightGCN as a recommender (He et al. 2020, arXiv 2002.02126); the model itself is `policies.lightgcn`."""

from __future__ import annotations

from promptailor.evals.baselines.pairwise import PairwiseScorer, PairwiseSettings


class LightGCNRanker(PairwiseScorer):
    """Propagated user vector times propagated item vector."""

    name = "lightgcn"
    settings = PairwiseSettings(n_layers=3, learning_rate=2e-2, l2_penalty=1e-4, epochs=100, patience=5)
