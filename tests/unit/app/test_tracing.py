"""Where traces go, under which names, and what is taken out of them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.tracers.context import _configure_hooks

from promptailor.app import tracing
from promptailor.app.pseudonym import pseudonym
from promptailor.app.settings import Settings
from promptailor.app.tracing import anonymizer, log_feedback, run_config, sends_spans, sends_to_langsmith, start_tracing

RAW = "raw-id-17"
leaves = st.none() | st.booleans() | st.integers() | st.just(RAW) | st.just(f"RankInput(user_id='{RAW}', history=[])")
payloads = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["user_id", "items", "x"]), inner)
)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(PROMPTAILOR_HOME=tmp_path)


def ids_in(value: Any) -> list[str]:
    """What a payload says of users."""
    if isinstance(value, dict):
        own = [str(value["user_id"])] if isinstance(value.get("user_id"), str) else []
        return own + [found for part in value.values() for found in ids_in(part)]
    return [found for part in value for found in ids_in(part)] if isinstance(value, list) else []


@settings(max_examples=50, deadline=None)
@given(payload=payloads)
def test_user_ids_become_pseudonyms_wherever_they_stand(payload: Any) -> None:
    fixed = Settings(PROMPTAILOR_PSEUDONYM_KEY="key")
    clean = anonymizer(fixed)(payload)
    assert f"user_id='{RAW}'" not in repr(clean)
    assert RAW not in ids_in(clean)
    assert anonymizer(fixed)(clean) == clean, "metadata passes twice"


def test_numbers_are_ids_too_and_other_fields_stay(home: Settings) -> None:
    clean = anonymizer(home)({"user_id": 17, "items": [{"item_id": "17", "rank": 1, "score": None}], "valid": True})
    assert clean == {
        "user_id": pseudonym(17, home),
        "items": [{"item_id": "17", "rank": 1, "score": None}],
        "valid": True,
    }


def test_keys_are_taken_out_of_any_text(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "correct-horse")
    clean = anonymizer(home)({"error": "401 for correct-horse at https://u:pw@host/v1", "deep": [{"a": "sk-abcdefgh"}]})
    assert clean == {"error": "401 for [redacted] at https://[redacted]@host/v1", "deep": [{"a": "[redacted]"}]}


def test_a_run_is_found_by_policy_and_pseudonym(home: Settings) -> None:
    config = run_config("rpp+", user_id="ann", thread_id="t1", task="chat", settings=home)
    assert config["run_name"] == "chat rpp+"
    assert {"promptailor", "policy:rpp+"} <= set(config["tags"])
    assert config["metadata"] == {
        "promptailor.policy": "rpp+",
        "user_id": pseudonym("ann", home),
        "thread_id": "t1",
    }
    assert config["configurable"] == {"thread_id": "t1"}
    assert config["run_id"] != run_config("rpp+")["run_id"]


def test_without_tracing_nothing_listens(monkeypatch: pytest.MonkeyPatch, home: Settings) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    before = len(_configure_hooks)
    start_tracing(home)
    log_feedback(uuid.uuid4(), "thumbs", 1.0)
    assert len(_configure_hooks) == before
    assert (tracing._listening.scores, tracing._listening.spans) == (None, None)
    assert not home.home.exists() or list(home.home.iterdir()) == [], "no key is made that nothing needs"


@pytest.mark.parametrize(
    ("environment", "langsmith", "spans"),
    [
        ({}, False, False),
        ({"LANGSMITH_TRACING": "true"}, True, False),
        ({"LANGCHAIN_TRACING_V2": "true"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False, False),
        (
            {
                "LANGSMITH_TRACING": "true",
                "LANGSMITH_OTEL_ENABLED": "true",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
            },
            True,
            False,
        ),
    ],
)
def test_the_standard_variables_decide(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], langsmith: bool, spans: bool
) -> None:
    for name in (*tracing._LANGSMITH, *tracing._OTLP, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (sends_to_langsmith(), sends_spans()) == (langsmith, spans)
