"""Keys never leave: what a server or a client says is cleaned before it is shown, logged or stored."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|gsk|xai|hf|ls[vp]\d?)[-_][\w-]{6,}|(?<=Bearer )\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SHORTEST = 6
_BLOT = "[redacted]"


def redact(text: str) -> str:
    """Blot out the values of the environment's keys, and whatever looks like one."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """Return `redact` with the environment as it is now: for many short texts."""
    values = [value for name, value in os.environ.items() if len(value) >= _SHORTEST and _SECRET_NAME.search(name)]

    def blot(text: str) -> str:
        for value in values:
            text = text.replace(value, _BLOT)
        return _SECRET_TEXT.sub(_BLOT, text)

    return blot
