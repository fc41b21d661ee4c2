from __future__ import annotations

import numpy as np
import pytest

from promptailor.evals.decomposition import Labels, RewardMatrices, decompose
from promptailor.evals.statistics import Array
from promptailor.prompts.errors import InputError


def planted(*, effect: float, n_users: int = 240, seed: int = 0) -> RewardMatrices:
    """Two segments and four prompts; prompt 1 suits segment 0, prompt 2 segment 1, prompt 0 is worst for both."""
    rng = np.random.default_rng(seed)
    truth = 0.5 + effect * np.array([[-1.0, 1.0, 0.3, 0.0], [-1.0, -0.2, 1.0, 0.0]])
    segments, validation_segments = np.arange(n_users) % 2, np.arange(200) % 2

    def draw(of: Labels) -> Array:
        return np.asarray(truth[of] + rng.normal(0, 0.1, (len(of), 4)))

    rewards = draw(segments)
    return RewardMatrices(
        rewards=rewards,
        fresh=draw(segments),
        segments=segments,
        policy=rewards[np.arange(n_users), 1 + segments],
        validation=draw(validation_segments),
        validation_segments=validation_segments,
        optimum=truth[segments].max(axis=1),
    )


def test_a_planted_world_is_taken_apart() -> None:
    found = decompose(planted(effect=0.2), seed=0)
    assert found.best_prompt == 2  # mean .3 + 1 over the segments, against 1 - .2
    assert found.best_single.mean == pytest.approx(0.5 + 0.2 * 0.65, abs=0.02)
    assert found.per_segment.mean == pytest.approx(0.7, abs=0.02)
    assert found.policy.mean == pytest.approx(0.7, abs=0.02)
    assert found.optimum is not None
    assert found.optimum.mean == pytest.approx(0.7)
    assert found.oracle.mean > found.oracle_corrected.mean
    assert found.oracle_corrected.mean == pytest.approx(0.69, abs=0.02)
    assert found.share_of_headroom is not None
    assert found.share_of_headroom.low < 1.1 < found.share_of_headroom.high + 0.15
    gains = {(c.a, c.b): c for c in found.gains}
    assert gains["policy", "best_single"].p_holm < 0.01
    assert gains["policy", "per_segment"].difference == pytest.approx(0, abs=1e-12)


def test_a_world_where_prompts_do_not_matter_shows_no_gain_and_no_share() -> None:
    matrices = planted(effect=0.0)
    found = decompose(matrices, seed=0)
    assert found.oracle.low > 0.55  # the winner's curse makes something of nothing
    assert found.oracle_corrected.mean == pytest.approx(0.5, abs=0.03)
    assert found.share_of_headroom is None
    gain = next(c for c in found.gains if (c.a, c.b) == ("policy", "best_single"))
    assert gain.low < 0 < gain.high


def test_the_numbers_by_hand() -> None:
    found = decompose(
        RewardMatrices(
            rewards=np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.5], [0.2, 0.4, 0.3]]),
            fresh=np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]),
            segments=np.array([0, 1, 7]),
            policy=np.array([1.0, 0.5, 0.3]),
            validation=np.array([[0.9, 0.1, 0.8], [0.0, 0.6, 0.5]]),
            validation_segments=np.array([0, 1]),
        ),
        seed=0,
    )
    assert found.best_prompt == 2  # validation means .45, .35, .65
    assert found.best_single.mean == pytest.approx((1.0 + 0.5 + 0.3) / 3)
    assert found.per_segment.mean == pytest.approx((1.0 + 1.0 + 0.3) / 3)  # nobody to choose for 7: the single prompt
    assert found.oracle.mean == pytest.approx((1.0 + 1.0 + 0.4) / 3)
    # User 0 likes prompts 0 and 2 alike; 2 is better on validation users, so it is what is scored afresh.
    assert found.oracle_corrected.mean == pytest.approx((0.3 + 0.5 + 0.8) / 3)
    assert found.n_segments == 3


def test_the_same_matrices_give_the_same_report() -> None:
    assert decompose(planted(effect=0.1), seed=3) == decompose(planted(effect=0.1), seed=3)


def test_shapes_that_do_not_fit_are_named() -> None:
    good = planted(effect=0.1)
    fields = {name: getattr(good, name) for name in RewardMatrices.__dataclass_fields__}
    with pytest.raises(InputError, match="fresh: shape"):
        decompose(RewardMatrices(**{**fields, "fresh": good.fresh[:-1]}), seed=0)
    with pytest.raises(InputError, match="policy: shape"):
        decompose(RewardMatrices(**{**fields, "policy": good.policy[:, None]}), seed=0)
