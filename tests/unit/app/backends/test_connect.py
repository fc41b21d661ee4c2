"""Model strings become ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect, content_spec
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.app.settings import Settings
from promptailor.prompts.errors import InputError, SpecError
from promptailor.prompts.llm import Message, ModelCall

SERVER = "base_url=http://127.0.0.1:1/v1"


def open_port(text: str, *, budget: Budget | None = None, store: ResponseStore | None = None) -> ModelPort:
    return connect(text, settings=Settings(), store=store or ResponseStore(), budget=budget or Budget())


def test_how_fast_a_model_is_asked_is_no_part_of_what_it_answers() -> None:
    pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")
    port = open_port(f"openai:m?{SERVER}&concurrency=3&rpm=600&attempts=2&timeout=7&max_tokens=50")
    assert port.spec == f"openai:m?{SERVER}&max_tokens=50"
    assert (port.pace.concurrency, port.pace.requests_per_minute) == (3, 600)
    assert (port.retry.attempts, port.timeout_s, port.max_output_tokens) == (2, 7, 50)
    assert str(content_spec(f"openai:m?{SERVER}&rpm=5 | planted:1")) == f"openai:m?{SERVER}"


def test_models_that_run_here_have_no_pace() -> None:
    with pytest.raises(SpecError, match="rpm is for models behind a network"):
        open_port("planted:1?rpm=5")


def test_several_models_stand_by_for_each_other() -> None:
    pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")
    port = open_port(f"openai:m?{SERVER}&attempts=1 | planted:1 | planted:2")
    assert port.fallback is not None
    assert port.fallback.spec == "planted:1"
    assert port.fallback.fallback is not None
    call = ModelCall(messages=(Message(role="user", content="hello"),), split="serve")
    assert port.complete(call).text == "There are no candidates to rank."


def test_a_money_budget_needs_a_price() -> None:
    pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")
    with pytest.raises(SpecError, match="no price is known for openai:m; write it into a file"):
        open_port(f"openai:m?{SERVER}", budget=Budget(usd=1.0))
    assert open_port("planted:1", budget=Budget(usd=1.0)).price is not None


@pytest.mark.parametrize("option", ["concurrency=0", "rpm=many", "attempts=-1", "timeout=x"])
def test_an_option_that_makes_no_sense_is_named(option: str) -> None:
    pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")
    with pytest.raises(SpecError, match=option.partition("=")[0]):
        open_port(f"openai:m?{SERVER}&{option}")


def test_keys_have_no_place_in_a_model_string() -> None:
    for text in ("anthropic:m?api_key=sk-12345678", "openai:m?base_url=http://user:pa55word@127.0.0.1/v1"):
        with pytest.raises(SpecError, match="environment") as raised:
            open_port(text)
        assert "sk-12345678" not in str(raised.value)
        assert "pa55word" not in str(raised.value)


def ask(port: ModelPort, text: str, split: str = "train") -> str:
    return port.complete(ModelCall(messages=(Message(role="user", content=text),), split=split)).text  # type: ignore[arg-type]


def test_recorded_answers_are_replayed_and_nothing_else_is(tmp_path: Path) -> None:
    recorded = ResponseStore(tmp_path / "runs" / "a" / "responses.sqlite")
    original = ask(open_port("planted:1", store=recorded), "hello")
    recorded.close()
    mine = ResponseStore()
    replay = open_port(f"replay:{tmp_path / 'runs'}", store=mine, budget=Budget(0))
    assert ask(replay, "hello") == original
    assert (replay.spec, mine.hits, mine.requests) == ("planted:1", 1, 0)
    with pytest.raises(InputError, match="holds no answer to this prompt"):
        ask(replay, "something else")
    with pytest.raises(InputError, match="holds no answer to this prompt"):
        ask(replay, "hello", split="validation")


def test_of_several_recorded_models_one_is_chosen(tmp_path: Path) -> None:
    for world in ("1", "2"):
        store = ResponseStore(tmp_path / world / "responses.sqlite")
        ask(open_port(f"planted:{world}", store=store), "hello")
        store.close()
    with pytest.raises(SpecError, match=r"holds answers of planted:1, planted:2; choose one with \?model=NAME"):
        open_port(f"replay:{tmp_path}")
    assert open_port(f"replay:{tmp_path}?model=planted:2").spec == "planted:2"
    with pytest.raises(SpecError, match="no recorded answers"):
        open_port(f"replay:{tmp_path / 'nowhere'}")
