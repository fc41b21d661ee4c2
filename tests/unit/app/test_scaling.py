"""One measurement of a tiny size."""

from __future__ import annotations

import pytest

from promptailor.app.scaling import Size, measure
from promptailor.evals.scaling import HISTORY


@pytest.mark.slow
def test_what_is_measured_tells_users_apart() -> None:
    row = measure(Size(400, 500))
    assert row.n_interactions >= 400 * HISTORY * 0.9
    assert row.embeddings_s > 0 < row.rank_ms_per_user
    assert row.ndcg_embeddings > row.ndcg_popularity + 0.05 > 0.5
