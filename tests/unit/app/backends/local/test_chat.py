"""A local model as a chat model: its readouts, alone and in batches, of threads and of coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from math import exp, isclose
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from promptailor.prompts.assemble import AssembledPrompt
from promptailor.prompts.errors import InputError

pytest.importorskip("transformers")

from promptailor.app.backends import resolve_model
from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.ranking_chat import READOUTS, Readout
from promptailor.app.settings import Settings

TinyLlm = Callable[..., Path]
FilmPrompt = Callable[..., AssembledPrompt]


def load(path: Path, options: str = "") -> LocalChat:
    chat = resolve_model(f"transformers:{path}?device=cpu&threads=1&{options}", Settings())
    assert isinstance(chat, LocalChat)
    return chat


@pytest.fixture(scope="module")
def chat(tiny_llm: TinyLlm) -> LocalChat:
    return load(tiny_llm("llama"))


def messages_of(prompt: AssembledPrompt) -> list[BaseMessage]:
    return [SystemMessage(prompt.system), HumanMessage(prompt.user)]


def short_prompt(n: int) -> list[BaseMessage]:
    """Return one of some short prompts of different lengths."""
    return [SystemMessage("You are a critic."), HumanMessage(f"User {n} likes" + n * " a film")]


def numbers(n: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(1, n + 1))


def test_first_token_answers_every_label_once_best_first(chat: LocalChat, film_prompt: FilmPrompt) -> None:
    prompt = film_prompt("u")
    answer = chat.invoke(messages_of(prompt), labels=prompt.labels)
    log_probs = answer.response_metadata["label_log_probs"]
    assert answer.response_metadata["readout"] == "first_token"
    assert answer.response_metadata["model_name"] == chat.model_name
    assert list(log_probs) == list(prompt.labels)
    assert answer.text.split("\n") == sorted(log_probs, key=lambda label: -log_probs[label])
    assert isclose(sum(map(exp, log_probs.values())), 1.0, abs_tol=1e-3)


def test_structured_answers_every_label_once(chat: LocalChat, tiny_llm: TinyLlm, film_prompt: FilmPrompt) -> None:
    prompt = film_prompt("u")
    answer = load(tiny_llm("llama"), "readout=structured").invoke(messages_of(prompt), labels=prompt.labels)
    assert sorted(answer.text.split("\n")) == sorted(prompt.labels)
    assert answer.response_metadata == {"model_name": answer.response_metadata["model_name"], "readout": "structured"}
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 2 * len(prompt.labels)  # a label, line breaks between, the end


@pytest.mark.parametrize("readout", READOUTS)
def test_calls_of_threads_and_coroutines_get_what_lone_calls_get(
    tiny_llm: TinyLlm, kind: str, readout: Readout
) -> None:
    chat = load(tiny_llm(kind), f"readout={readout}&max_new_tokens=4")

    def ask(n: int) -> str:
        return chat.invoke(short_prompt(n), labels=numbers(3 + n % 3)).text

    async def ask_all() -> list[AIMessage]:
        calls: list[Coroutine[Any, Any, AIMessage]] = [
            chat.ainvoke(short_prompt(n), labels=numbers(3 + n % 3)) for n in range(8)
        ]
        return list(await asyncio.gather(*calls))

    alone = [ask(n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone
    assert [answer.text for answer in asyncio.run(ask_all())] == alone
    assert len(set(alone)) > 1


def test_calls_with_and_without_labels_share_a_batch(chat: LocalChat) -> None:
    def ask(n: int) -> str:
        return chat.invoke(short_prompt(n), labels=numbers(4) if n % 2 else (), max_new_tokens=2 + n % 3).text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(12))) == [ask(n) for n in range(12)]


def test_without_labels_it_writes_whatever_the_readout(
    chat: LocalChat, tiny_llm: TinyLlm, film_prompt: FilmPrompt
) -> None:
    messages = messages_of(film_prompt("u"))
    written = [load(tiny_llm("llama"), f"readout={r}&max_new_tokens=6").invoke(messages) for r in READOUTS]
    assert len({answer.text for answer in written}) == 1
    assert {answer.response_metadata["readout"] for answer in written} == {"text"}
    assert "label_log_probs" not in written[0].response_metadata
    assert "".join(chunk.text for chunk in chat.stream(messages, max_new_tokens=6)) == written[0].text


def test_usage_is_exact(tiny_llm: TinyLlm, film_prompt: FilmPrompt, kind: str) -> None:
    chat = load(tiny_llm(kind), "readout=text&max_new_tokens=5")
    messages = [HumanMessage(film_prompt("u").user)]
    template = [{"role": "user", "content": film_prompt("u").user}]
    text: Any = chat.engine.tokenizer.apply_chat_template(template, tokenize=False, add_generation_prompt=True)
    usage = chat.invoke(messages).usage_metadata
    assert usage is not None
    assert usage["input_tokens"] == chat.count_tokens(messages) == len(chat.engine.tokenizer.tokenize(text))
    assert usage["output_tokens"] == 5
    assert usage["total_tokens"] == usage["input_tokens"] + 5


def test_stop_cuts_the_answer(chat: LocalChat, film_prompt: FilmPrompt) -> None:
    messages = messages_of(film_prompt("u"))
    whole = chat.invoke(messages, max_new_tokens=6).text
    middle = whole[len(whole) // 2]
    assert chat.invoke(messages, max_new_tokens=6, stop=[middle]).text == whole.split(middle, 1)[0]


def test_an_answer_stops_at_any_end_token_of_the_model(tiny_llm: TinyLlm, film_prompt: FilmPrompt) -> None:
    chat = load(tiny_llm("llama"), "readout=text&max_new_tokens=6")
    engine, messages = chat.engine, messages_of(film_prompt("u"))
    whole = engine.generate_tokens([chat.engine.encode(film_prompt("u").messages)], 6)[0]
    engine.model.generation_config.eos_token_id = [whole[3]]
    engine._ends.append(whole[3])
    place = whole.index(whole[3])
    answer = chat.invoke(messages)
    assert answer.text == engine.encoder.decode(whole[:place])
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == place + 1


def test_a_prompt_longer_than_the_context_names_the_lengths(tiny_llm: TinyLlm, film_prompt: FilmPrompt) -> None:
    prompt = film_prompt("u")
    n_prompt = load(tiny_llm("llama")).count_tokens(messages_of(prompt))
    folder = tiny_llm("llama", context=n_prompt + 3)
    ranked = load(folder).invoke(messages_of(prompt), labels=prompt.labels)
    written = load(folder, "readout=text").invoke(messages_of(prompt))
    assert sorted(ranked.text.split("\n")) == sorted(prompt.labels)
    assert written.usage_metadata is not None
    assert written.usage_metadata["total_tokens"] <= n_prompt + 3
    with pytest.raises(
        InputError, match=rf"^prompt of {n_prompt} tokens.*\b21 for the answer.*context of {n_prompt + 3};"
    ):
        load(folder, "readout=structured").invoke(messages_of(prompt), labels=prompt.labels)
    with pytest.raises(InputError, match="longer than the model's context"):
        load(folder).invoke([HumanMessage(3 * prompt.user)], labels=prompt.labels)


def test_a_label_it_has_no_number_for_is_refused_and_the_worker_lives_on(
    chat: LocalChat, film_prompt: FilmPrompt
) -> None:
    prompt = film_prompt("u")
    with pytest.raises(InputError, match=r"label '51'.*1 to 50"):
        chat.invoke(messages_of(prompt), labels=("1", "51"))
    with pytest.raises(InputError, match="give each label once"):
        chat.invoke(messages_of(prompt), labels=("1", "1"))
    assert chat.max_candidates == 50
    assert chat.invoke(messages_of(prompt), labels=prompt.labels).text


def test_messages_of_tools_are_refused(chat: LocalChat) -> None:
    with pytest.raises(InputError, match="tool"):
        chat.invoke([HumanMessage("hi"), AIMessage("a"), ToolMessage("b", tool_call_id="1")])
