"""Keys never leave."""

from __future__ import annotations

import pytest

from promptailor.app.redact import redact


def test_the_environments_keys_are_blotted_out_whatever_they_look_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVER_API_KEY", "correct horse battery")
    assert redact("401: correct horse battery is wrong") == "401: [redacted] is wrong"


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdefghij",
        "Authorization: Bearer abc.def.ghi",
        "http://user:pa55word@host:8000/v1",
        "token hf_abcdefghijkl",
    ],
)
def test_what_looks_like_a_key_is_blotted_out(text: str) -> None:
    clean = redact(text)
    assert "[redacted]" in clean
    assert not any(secret in clean for secret in ("abcdefgh", "abc.def", "pa55word"))


def test_other_text_stays() -> None:
    text = "ConnectError: http://127.0.0.1:8000/v1 refused; ask-me-anything, sketch"
    assert redact(text) == text
