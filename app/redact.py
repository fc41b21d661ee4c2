"""Keys never leave: what a server or a client says is cleaned before it is shown, logged or stored."""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|gsk|xai|hf|ls[vp]\d?)[-_][\w-]{6,}|(?<=Bearer )\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SHORTEST = 6


def redact(text: str) -> str:
    """Blot out the values of the environment's keys, and whatever looks like one."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name):
            text = text.replace(value, "[redacted]")
    return _SECRET_TEXT.sub("[redacted]", text)
