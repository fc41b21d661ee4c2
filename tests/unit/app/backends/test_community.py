"""Chat models of langchain-community: found by class, told once that nobody maintains them."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

pytest.importorskip("langchain_community", reason="the extra `community` is not installed")

from promptailor.app.backends import resolve_model
from promptailor.app.backends.community import _warn_once
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

FAKE = 'community:FakeListChatModel?responses=["2, 1", "1, 2"]'


def test_a_class_is_made_with_typed_options_and_answers() -> None:
    model = resolve_model(FAKE, Settings())
    assert [model.invoke("rank").text for _ in range(2)] == ["2, 1", "1, 2"]


def test_that_nobody_maintains_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    _warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            resolve_model(FAKE, Settings())
    assert [record.message for record in caplog.records] == [
        "langchain-community is no longer maintained: prefer openai:MODEL?base_url=URL, or the provider's own package"
    ]


def test_a_fresh_process_shows_that_line_and_no_other_noise() -> None:
    program = (
        "from promptailor.app.backends import resolve_model\n"
        "from promptailor.app.settings import Settings\n"
        f"resolve_model({FAKE!r}, Settings())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default::DeprecationWarning", "-c", program], capture_output=True, text=True, check=True
    )
    ours = [line for line in done.stderr.splitlines() if "langchain-community" in line or "langchain_community" in line]
    assert ours == [
        "langchain-community is no longer maintained: prefer openai:MODEL?base_url=URL, or the provider's own package"
    ]


def test_an_unknown_class_lists_similar_names() -> None:
    with pytest.raises(SpecError, match=r"no chat model of that name; it has .*ChatTongyi"):
        resolve_model("community:ChatTongy", Settings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("community:ChatTongyi", "DASHSCOPE_API_KEY"),
        ("community:FakeListChatModel", "responses: Field required"),
        ("community:FakeListChatModel?readout=first_token", "read as text, not by first_token"),
        ("community:__all__", "no chat model of that name"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        resolve_model(text, Settings())
    assert "\n" not in str(caught.value)
