"""Matrix factorisation with the Bayesian personalised ranking loss (Rendle et al., 2009)."""

from __future__ import annotations

from promptailor.evals.baselines.pairwise import PairwiseScorer, PairwiseSettings


class BPR(PairwiseScorer):
    """BPR-MF: LightGCN's training loop without its layers.

    Departure from the paper: Adam on batches instead of single steps of gradient descent.
    """

    name = "bpr"
    settings = PairwiseSettings(
        n_layers=0, learning_rate=5e-3, l2_penalty=1e-2, batch_size=4096, epochs=100, patience=5
    )
