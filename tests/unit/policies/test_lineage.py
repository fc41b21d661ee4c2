"""The registry of versions: which one is served, and going back."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.policies.acceptance import Verdict
from promptailor.policies.lineage import LINEAGE_FILE, Lineage, PromptVersion, read_lineage
from promptailor.prompts.errors import CheckpointError, InputError


def verdict(accepted: bool) -> Verdict:
    return Verdict(accepted=accepted, n_users=9, after=0.6, difference=0.1, low=0.0, high=0.2, p=0.01, alpha=0.025)


LINEAGE = Lineage(
    versions=(
        PromptVersion(number=0, text="Write.\nShort."),
        PromptVersion(number=1, parent=0, text="Write.\nLong.", verdict=verdict(True)),
        PromptVersion(number=2, parent=1, text="Sing.", verdict=verdict(False)),
        PromptVersion(number=3, parent=1, reason="no_markers"),
    )
)


def test_the_last_accepted_version_is_served() -> None:
    assert LINEAGE.served.number == 1
    assert (LINEAGE.proposed, LINEAGE.n_accepted) == (2, 1)
    assert LINEAGE.instruction == "Write.\nLong."


def test_a_rejected_version_can_be_pinned_and_let_go() -> None:
    pinned = LINEAGE.pin(2)
    assert pinned.instruction == "Sing."
    assert pinned.learned.number == 1, "later versions build on what was accepted"
    assert pinned.pin(None) == LINEAGE


def test_going_back_follows_the_parents() -> None:
    once = LINEAGE.rollback()
    assert once.served.number == 0
    assert LINEAGE.pin(2).rollback().served.number == 1
    with pytest.raises(InputError, match="is the first"):
        once.rollback()


def test_what_has_no_text_cannot_be_served() -> None:
    with pytest.raises(InputError, match="no_markers"):
        LINEAGE.pin(3)
    with pytest.raises(InputError, match="there are 0 to 3"):
        LINEAGE.pin(4)


def test_a_diff_shows_changed_lines_alone() -> None:
    lines = LINEAGE.diff(0, 1).splitlines()
    assert [line for line in lines if line[0] in "+-" and "version" not in line] == ["-Short.", "+Long."]


def test_a_lineage_survives_its_file_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / LINEAGE_FILE
    path.write_text(LINEAGE.pin(2).model_dump_json(), "utf-8")
    assert read_lineage(tmp_path) == LINEAGE.pin(2)
    path.write_text(LINEAGE.model_dump_json().replace('"number":1', '"number":7'), "utf-8")
    with pytest.raises(CheckpointError, match="must count from 0"):
        read_lineage(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_lineage(tmp_path / "elsewhere")
