"""Pseudonyms: what stands for a user's id wherever a trace, a log or a metric could show it.

A keyed hash, so that who reads a trace can follow one user but cannot find out who it is, not even by trying all ids.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from promptailor.app.settings import Settings
from promptailor.prompts.errors import InputError

KEY_FILE = "pseudonym.key"
"""In PROMPTAILOR_HOME, readable by its owner alone; without it, nobody can tell whose pseudonym is whose."""
PREFIX = "user-"
_DIGITS = 16


def pseudonym(user_id: str | int, settings: Settings | None = None) -> str:
    """Return the pseudonym of a user: the same for the same id and key, on every machine.

    The key is PROMPTAILOR_PSEUDONYM_KEY, or a file in PROMPTAILOR_HOME that is made when it is first needed.

    Raises:
        InputError: the file can neither be read nor made.
    """
    return namer(settings)(user_id)


def namer(settings: Settings | None = None) -> Callable[[str | int], str]:
    """Return `pseudonym` with its key read already: an event loop should not wait for a file."""
    settings = settings or Settings()
    given = settings.pseudonym_key
    key = given.get_secret_value().encode() if given else _key(settings.home / KEY_FILE)
    return lambda user_id: PREFIX + hmac.new(key, str(user_id).encode(), hashlib.sha256).hexdigest()[:_DIGITS]


@lru_cache(maxsize=8)
def _key(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make it writable, or set PROMPTAILOR_PSEUDONYM_KEY") from None


def _make(path: Path) -> None:
    """Write a new key, whole or not at all; where two processes do, the first one's stays."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as draft:  # readable by its owner alone
        draft.write(secrets.token_hex(32).encode())
        draft.flush()
        try:
            os.link(draft.name, path)
        except FileExistsError:
            return
