"""Whether a method only finds what many people know: quality by how popular the relevant item is.

A run folder has no data set in it, so popularity is counted where the run has it: in how many of the histories of the
run's own users an item occurs. That is the users' popularity up to a factor and sampling, and it sees no relevant item,
because histories end before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from promptailor.evals.metrics import PRIMARY
from promptailor.evals.records import UserRecord
from promptailor.evals.statistics import Estimate, estimate
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Model

N_BANDS = 5


class PopularityBand(Model):
    """Users whose relevant item is about as popular."""

    low: int
    """Fewest histories that a relevant item of the band occurs in."""
    high: int
    n_users: int
    score: Estimate


def popularity(cases: Sequence[EvalCase]) -> Counter[str]:
    """Count, for every item, the users whose history it occurs in."""
    return Counter(item_id for case in cases for item_id in {item.item_id for item in case.request.history})


def popularity_profile(
    records: Mapping[str, UserRecord], counts: Mapping[str, int], *, n_bands: int = N_BANDS, seed: int
) -> tuple[PopularityBand, ...]:
    """Return the primary measure by bands of about as many users each, the least popular first.

    Users whose items are equally popular are in one band, so there may be fewer bands than asked for.

    Args:
        records: one method's records by user.
        counts: how often each item occurs; absent means never.
        n_bands: bands at most.
        seed: keys the resampling.
    """
    popular = np.array([counts.get(row.relevant_item_id, 0) for row in records.values()])
    scores = np.array([row.metrics[PRIMARY] for row in records.values()])
    edges = np.unique(np.quantile(popular, np.arange(1, n_bands) / n_bands, method="inverted_cdf"))
    band_of = np.searchsorted(edges, popular, side="left")
    bands = []
    for band in np.unique(band_of):
        members = band_of == band
        bands.append(
            PopularityBand(
                low=int(popular[members].min()),
                high=int(popular[members].max()),
                n_users=int(members.sum()),
                score=estimate(scores[members], key=(seed, "popularity", int(band))),
            )
        )
    return tuple(bands)
