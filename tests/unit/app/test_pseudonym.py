"""A pseudonym is stable under one key, differs under another, and gives the id away to nobody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from promptailor.app.pseudonym import KEY_FILE, PREFIX, pseudonym
from promptailor.app.settings import Settings
from promptailor.prompts.errors import InputError


def at(home: Path) -> Settings:
    return Settings(PROMPTAILOR_HOME=home)


def test_the_same_user_has_the_same_pseudonym_and_another_user_another(tmp_path: Path) -> None:
    ours = pseudonym("u17", at(tmp_path))
    assert ours == pseudonym("u17", at(tmp_path))
    assert pseudonym(17, at(tmp_path)) == pseudonym("17", at(tmp_path)), "ids are strings inside"
    assert len({ours, pseudonym("u18", at(tmp_path)), pseudonym("u17", at(tmp_path / "other"))}) == 3
    assert ours.startswith(PREFIX)
    assert "u17" not in ours


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    pseudonym("u", at(tmp_path / "new"))
    key = tmp_path / "new" / KEY_FILE
    assert len(key.read_bytes()) == 64
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert list(key.parent.iterdir()) == [key]


def test_machines_that_share_a_key_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTAILOR_PSEUDONYM_KEY", "the fleet's")
    assert pseudonym("u", at(tmp_path / "a")) == pseudonym("u", at(tmp_path / "b"))
    assert list(tmp_path.iterdir()) == [], "no key file is made where a key is given"


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="PROMPTAILOR_PSEUDONYM_KEY"):
        pseudonym("u", at(tmp_path / "file"))
