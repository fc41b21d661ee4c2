"""From settings to a conversation: which catalogue goes with which model, and `promptailor chat` on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from promptailor.app.chat import catalogue_retriever
from promptailor.app.cli import app
from promptailor.app.retrieval import CatalogueRetriever
from promptailor.app.settings import Settings
from promptailor.evals.baselines.bm25 import BM25
from promptailor.graph.chat.retriever import Query
from promptailor.prompts.chat import load_chat_words
from promptailor.prompts.errors import CatalogueError, DataError, MissingExtraError
from tests.films import film_retriever


@pytest.mark.parametrize(
    ("model", "dataset", "domain"),
    [
        ("embedded:ml-100k", None, "movies"),
        ("embedded:games", None, "games"),
        ("openai:gpt-test", None, "movies"),
        ("openai:gpt-test", "lastfm", "music"),
    ],
)
def test_the_catalogue_is_the_one_that_the_model_knows(model: str, dataset: str | None, domain: str) -> None:
    assert catalogue_retriever(Settings(), model=model, dataset=dataset).domain == domain


def test_an_unknown_data_set_is_said_before_anything_is_read() -> None:
    with pytest.raises(DataError, match="unknown"):
        catalogue_retriever(Settings(), dataset="nope")


def test_without_the_search_for_words_everything_else_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(self: BM25, items: object) -> None:
        raise MissingExtraError("bm25", "baselines")

    monkeypatch.setattr(BM25, "__init__", missing)
    films: CatalogueRetriever = film_retriever()
    found = films.retrieve(Query(wanted=("Western",), text="noon", n=3))
    assert {facts.item.title for facts in found} == {"Unforgiven", "High Noon", "Young Guns"}
    assert "promptailor[baselines]" in caplog.text


def test_a_conversation_on_a_terminal_is_gone_on_with_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTAILOR_CHECKPOINTER", f"sqlite:///{tmp_path / 'threads.sqlite'}")
    command = ["chat", "--model", "planted:1", "--thread", "t"]
    first = CliRunner().invoke(app, command, input="surprise me\n\n", catch_exceptions=False)
    assert "Here is what I would choose next" in first.output
    second = CliRunner().invoke(app, command, input="something like the second one\n", catch_exceptions=False)
    title = next(line for line in first.output.splitlines() if line.startswith("2. "))[3:].split(" — ")[0]
    assert f"(like {title})" in second.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "expected a mapping"),
        ("replies: {intro: Hello}", "replies.refined"),
        ("refinements: [no, 1]", "refinements"),
        ("acts: {help: [hilfe]}", "no phrases for"),
        ("a: [", "chat file"),
    ],
)
def test_own_words_that_do_not_fit_name_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "chat.yaml"
    file.write_text(text)
    with pytest.raises(CatalogueError, match=message):
        load_chat_words(file)


def test_a_reply_cannot_show_what_is_not_there(tmp_path: Path) -> None:
    reasons = "\n".join(f"  {name}: x" for name in type(load_chat_words().reasons).model_fields)
    file = tmp_path / "chat.yaml"
    file.write_text("reasons:\n" + reasons.replace("kinds: x", 'kinds: "{password}"', 1))
    with pytest.raises(CatalogueError, match=r"reasons\.kinds.*password"):
        load_chat_words(file)
