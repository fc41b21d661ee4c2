"""What a shared slot does to rankers that know nothing, against its exact expectation."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from promptailor.evals.artefact import COPIES, ArtefactStudy, Ranker, expected_best_order, study_artefact
from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.metrics import PRIMARY, score
from promptailor.evals.types import EvalCase
from promptailor.prompts.domain import Item, RankRequest


def _cases(prefix: str, n: int, n_candidates: int = 4) -> tuple[EvalCase, ...]:
    items = tuple(Item(item_id=str(i), title=f"title {i}") for i in range(n_candidates))
    return tuple(
        EvalCase(
            request=RankRequest(user_id=f"{prefix}{u}", history=(), candidates=items, domain="movies"),
            relevant_item_id=str(u % n_candidates),
            slot=u % n_candidates,
        )
        for u in range(n)
    )


@pytest.fixture(scope="module")
def study() -> ArtefactStudy:
    rankers: dict[str, Ranker] = {COPIES: lambda draw: Identity(), "random order": lambda draw: Random(draw)}
    return study_artefact(
        _cases("train", 20), _cases("test", 20), rankers, dataset="made up", seed=3, n_rounds=8, n_repeats=30
    )


def test_the_exact_expectation_is_the_mean_over_every_sequence_of_slots() -> None:
    gain = [score(["0", "1", "2"], str(slot))[PRIMARY] for slot in range(3)]
    every = [max(gain[slot] for slot in slots) for slots in product(range(3), repeat=4)]
    assert expected_best_order(3, 4) == pytest.approx(sum(every) / len(every))


def test_a_shared_slot_makes_every_user_score_alike_and_test_repeat_training(study: ArtefactStudy) -> None:
    shared = next(f for f in study.findings if f.ranker == COPIES and f.protocol == "shared")
    possible = {score(["0", "1", "2", "3"], str(slot))[PRIMARY] for slot in range(4)}
    assert all(r.train == r.test and min(abs(r.test - p) for p in possible) < 1e-9 for r in shared.rounds)
    for n in (1, 3, 8):
        assert shared.selected[n - 1].mean == pytest.approx(expected_best_order(4, n), abs=0.12)
    assert shared.selected[-1].perfect > 0.8


def test_an_order_per_user_leaves_nothing_to_select(study: ArtefactStudy) -> None:
    for finding in study.findings:
        if finding.protocol == "balanced" or finding.ranker != COPIES:
            assert finding.selected[-1].mean == pytest.approx(study.chance, abs=0.07)
            assert finding.selected[-1].perfect == 0


def test_the_figure_is_drawn(study: ArtefactStudy, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from promptailor.evals.artefact_figure import draw

    draw(study, tmp_path / "artefact.png")
    assert (tmp_path / "artefact.png").read_bytes().startswith(b"\x89PNG")
