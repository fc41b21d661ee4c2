"""`doctor --model`: what one request shows."""

from __future__ import annotations

import pytest

from promptailor.app.probe import probe_model
from promptailor.prompts.errors import ModelCallError, SpecError


def test_a_model_that_runs_here_says_what_it_can_do() -> None:
    report = probe_model("planted:1")
    assert report.valid
    assert sorted(report.answer.split()) == ["1", "2", "3"]
    assert (report.usd_per_1000_requests, report.log_probs) == (0.0, False)
    assert report.readouts["text"] == "yes"
    assert report.readouts["structured"] == "the back end has none"


def test_a_server_that_is_not_there_is_one_line_with_the_fix() -> None:
    pytest.importorskip("langchain_openai", reason="the extra `openai` is not installed")
    with pytest.raises(ModelCallError, match=r"openai:m.*Connection error.*check that the server runs"):
        probe_model("openai:m?base_url=http://127.0.0.1:1/v1")


def test_an_unknown_model_is_refused_as_everywhere() -> None:
    with pytest.raises(SpecError, match="no such world"):
        probe_model("planted:99")
