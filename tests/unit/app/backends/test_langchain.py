"""Providers of LangChain's `init_chat_model`: typed options, and one line for whatever is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptailor.app.backends import ModelSpec, resolve_model
from promptailor.app.backends.arguments import typed_arguments
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

AZURE = "azure_openai:ranker?azure_endpoint=http://127.0.0.1:9/&api_version=2024-10-21"
"""The one provider of LangChain's whose package is here."""


def arguments(query: str) -> dict[str, object]:
    return typed_arguments(ModelSpec.parse(f"any:model?{query}"))


def test_values_are_numbers_truths_lists_or_text() -> None:
    assert arguments('a=1&b=0.5&c=true&d=false&e=[1,"x"]&f=1e-3&g=gpt-4o&h=&i=True') == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": False,
        "e": [1, "x"],
        "f": 0.001,
        "g": "gpt-4o",
        "h": "",
        "i": "True",
    }


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_every_number_keeps_its_type_and_value(value: float) -> None:
    text = str(value).lower()
    read = typed_arguments(ModelSpec(provider="any", model="m", options={"x": text}))["x"]
    assert read == value
    assert type(read) is type(value)


def test_options_reach_the_vendors_class_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_openai")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-azure-secret")
    model = resolve_model(f"{AZURE}&temperature=0.25&timeout=7&streaming=true&readout=text", Settings())
    values = {name: getattr(model, name) for name in ("temperature", "request_timeout", "streaming", "max_retries")}
    assert values == {"temperature": 0.25, "request_timeout": 7, "streaming": True, "max_retries": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuch:model", r"unknown provider 'nosuch'; there are embedded, .*planted and LangChain's"),
        ("groq:llama?readout=structured", "groq models are read as text, not by structured"),
        ("groq:llama", "langchain-groq"),
        (AZURE, "AZURE_OPENAI_API_KEY"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        resolve_model(text, Settings())
    assert "\n" not in str(caught.value)


def test_a_wrong_value_is_named_without_what_else_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_openai")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-azure-secret")
    with pytest.raises(SpecError, match="temperature: Input should be a valid number") as caught:
        resolve_model(f"{AZURE}&temperature=warm", Settings())
    assert "sk-azure-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
