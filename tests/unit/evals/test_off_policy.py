"""Off-policy estimates on a planted log, where the other policy's true mean reward is known."""

from __future__ import annotations

import numpy as np
import pytest

from promptailor.evals import statistics
from promptailor.evals.off_policy import LoggedReward, OffPolicyReport, estimate_policy
from promptailor.policies.prompt_space import Choice, PromptSpace
from promptailor.prompts.errors import DataError
from promptailor.prompts.patterns import Catalogue

BASE, GAIN = 0.3, 0.2
SIZES = (3, 3)


def planted_log(
    space: PromptSpace, n_rows: int, *, interaction: float = 0.0, seed: int = 0, rows_per_user: int = 3
) -> list[LoggedReward]:
    """Votes that are up with chance BASE + GAIN per pattern whose option is 1; the log prefers option 0."""
    rng = np.random.default_rng(seed)
    mu = np.array([0.6, 0.25, 0.15])
    target: Choice = (1, 1)
    log = []
    for row in range(n_rows):
        choice = tuple(int(rng.choice(3, p=mu)) for _ in SIZES)
        chance = BASE + GAIN * sum(option == 1 for option in choice) + interaction * (choice == target)
        log.append(
            LoggedReward(
                user=f"u{row // rows_per_user}",
                choice=choice,
                propensities=tuple(float(mu[option]) for option in choice),
                target=target,
                target_chances=tuple(float(option == wanted) for option, wanted in zip(choice, target, strict=True)),
                reward=float(rng.random() < chance),
            )
        )
    return log


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "N_BOOTSTRAP", 400)


@pytest.fixture(scope="module")
def space(catalogue: Catalogue) -> PromptSpace:
    return PromptSpace(catalogue, patterns=("role_playing", "output_format"), sentences=3)


def covers(report: OffPolicyReport, name: str, truth: float) -> bool:
    estimate = report.estimates[name]  # type: ignore[index]  # the tests' own names
    return estimate.low <= truth <= estimate.high


def test_every_estimator_finds_the_planted_truth(space: PromptSpace) -> None:
    report = estimate_policy(planted_log(space, 6_000), space)
    truth = BASE + 2 * GAIN
    assert report.logged.mean == pytest.approx(BASE + GAIN * 0.5, abs=0.03)
    assert not report.missing
    for name, estimate in report.estimates.items():
        assert estimate.mean == pytest.approx(truth, abs=0.1), name


def test_the_truth_is_covered_as_often_as_promised(space: PromptSpace) -> None:
    truth = BASE + 2 * GAIN
    reports = [estimate_policy(planted_log(space, 900, seed=seed), space) for seed in range(20)]
    for name in ("ips", "snips", "dr", "additive"):
        assert sum(covers(report, name, truth) for report in reports) >= 17, name


def test_the_additive_estimate_is_the_surest_where_rewards_add_up_and_wrong_where_they_do_not(
    space: PromptSpace,
) -> None:
    report = estimate_policy(planted_log(space, 1_500), space)
    widths = {name: estimate.high - estimate.low for name, estimate in report.estimates.items()}
    assert widths["additive"] < widths["ips"]
    entangled = estimate_policy(planted_log(space, 20_000, interaction=0.3), space)
    assert covers(entangled, "dr", BASE + 2 * GAIN + 0.3)
    assert not covers(entangled, "additive", BASE + 2 * GAIN + 0.3)


def test_a_log_without_matches_says_so(space: PromptSpace) -> None:
    log = [row for row in planted_log(space, 900) if row.choice != row.target]
    report = estimate_policy(log, space)
    assert set(report.missing) == {"ips", "snips", "dr"}
    assert set(report.estimates) == {"additive"}
    assert (report.n_matches, report.effective_rows) == (0, 0.0)


def test_logs_that_tell_nothing_are_refused(space: PromptSpace) -> None:
    with pytest.raises(DataError, match="3 users voted"):
        estimate_policy(planted_log(space, 9), space)
    [*rows] = planted_log(space, 90)
    broken = LoggedReward(
        user="u0", choice=(0, 0), propensities=(0.0, 1.0), target=(1, 1), target_chances=(0.0, 0.0), reward=1.0
    )
    with pytest.raises(DataError, match="--explore"):
        estimate_policy([*rows, broken], space)
