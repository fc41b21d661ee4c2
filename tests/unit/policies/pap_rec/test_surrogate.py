"""Surrogates against the metric they stand for, and against the ranking that serving makes of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.policies.pap_rec.surrogate import rank_correlation, ranks, score, served
from promptailor.policies.reward import ndcg

log_probs = st.lists(st.sampled_from([-3.0, -2.5, -1.0, -0.2]), min_size=2, max_size=12)


@given(log_probs, st.data())
def test_the_served_metric_is_that_of_the_ranking_with_its_ties(values: list[float], data: st.DataObject) -> None:
    relevant = data.draw(st.integers(0, len(values) - 1))
    ranking = sorted(range(len(values)), key=lambda n: -values[n])  # stable, as `LabelScores.ranking` is
    of = [np.array(values)]
    assert ranks(of, [relevant])[0] == ranking.index(relevant) + 1
    assert served(of, [relevant])[0] == pytest.approx(ndcg([str(n) for n in ranking], {str(relevant)}, 10))
    top = ranking.index(relevant) < 5
    expected = ndcg([str(n) for n in ranking], {str(relevant)}, 5) + top
    assert score(of, [relevant], "ndcg+hit")[0] == pytest.approx(expected)
    assert score(of, [relevant], "both")[0] == pytest.approx(expected + values[relevant])


def test_correlation_needs_pairs_that_differ() -> None:
    assert rank_correlation([(0.0, 1.0)] * 5) is None
    assert rank_correlation([(0.0, 1.0), (1.0, 2.0)]) is None
    assert rank_correlation([(0.0, 1.0), (1.0, 3.0), (2.0, 7.0)]) == pytest.approx(1.0)
