"""The embedded model as a chat model: its two readouts, alone and in batches."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from promptailor.prompts.assemble import AssembledPrompt
from promptailor.prompts.errors import InputError

pytest.importorskip("transformers")

from promptailor.app.backends.embedded.chat import EmbeddedChat
from promptailor.app.backends.embedded.engine import Engine, LabelScores

FilmPrompt = Callable[..., AssembledPrompt]


@pytest.fixture(scope="module")
def chat(random_lm: Path) -> EmbeddedChat:
    return EmbeddedChat.from_folder(random_lm)


def messages_of(prompt: AssembledPrompt) -> list[BaseMessage]:
    return [SystemMessage(prompt.system), HumanMessage(prompt.user)]


def varied_prompts(film_prompt: FilmPrompt) -> list[AssembledPrompt]:
    return [film_prompt(f"u{n}", n_history=n % 13, n_candidates=4 + n % 7) for n in range(40)]


def test_first_token_answers_every_label_once_best_first(chat: EmbeddedChat, film_prompt: FilmPrompt) -> None:
    prompt = film_prompt("u")
    answer = chat.invoke(messages_of(prompt), labels=prompt.labels)
    log_probs = answer.response_metadata["label_log_probs"]
    assert sorted(answer.text.split("\n")) == sorted(prompt.labels)
    assert answer.text.split("\n") == sorted(log_probs, key=lambda label: -log_probs[label])
    assert math.isclose(sum(map(math.exp, log_probs.values())), 1.0, abs_tol=1e-3)
    assert answer.response_metadata["model_name"] == chat.model_name
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 1


def test_equal_scores_keep_label_order() -> None:
    assert LabelScores({"1": -2.0, "2": -1.0, "3": -2.0, "4": -1.0}).ranking == ("2", "4", "1", "3")


def test_a_prompt_ranks_the_same_alone_and_in_any_batch(random_lm: Path, film_prompt: FilmPrompt) -> None:
    engine = Engine.from_folder(random_lm)
    prompts = varied_prompts(film_prompt)
    together = engine.rank_batch([p.messages for p in prompts], [p.labels for p in prompts])
    for prompt, scores in zip(prompts, together, strict=True):
        assert engine.rank_batch([prompt.messages], [prompt.labels])[0].ranking == scores.ranking


def test_a_prompt_is_answered_in_the_same_words_alone_and_in_a_batch(random_lm: Path, film_prompt: FilmPrompt) -> None:
    engine = Engine.from_folder(random_lm)
    prompts = varied_prompts(film_prompt)[:10]
    together = engine.generate_texts([p.messages for p in prompts], max_new_tokens=8)
    assert together == [engine.generate_texts([p.messages], max_new_tokens=8)[0] for p in prompts]
    assert len(set(together)) > 1


def test_concurrent_calls_get_their_own_answers(chat: EmbeddedChat, film_prompt: FilmPrompt) -> None:
    prompts = varied_prompts(film_prompt)
    alone = [chat.invoke(messages_of(p), labels=p.labels).text for p in prompts]
    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(lambda p: chat.invoke(messages_of(p), labels=p.labels).text, prompts))
    assert at_once == alone


def test_asynchronous_calls_get_the_same_answers(chat: EmbeddedChat, film_prompt: FilmPrompt) -> None:
    prompts = varied_prompts(film_prompt)[:12]

    async def at_once() -> list[AIMessage]:
        return await asyncio.gather(*(chat.ainvoke(messages_of(p), labels=p.labels) for p in prompts))

    answers = asyncio.run(at_once())
    assert [a.text for a in answers] == [chat.invoke(messages_of(p), labels=p.labels).text for p in prompts]


def test_without_labels_it_writes_and_stream_and_batch_agree(chat: EmbeddedChat, film_prompt: FilmPrompt) -> None:
    messages = messages_of(film_prompt("u"))
    written = chat.invoke(messages, max_new_tokens=6)
    assert written.response_metadata["label_log_probs"] == {}
    assert "".join(chunk.text for chunk in chat.stream(messages, max_new_tokens=6)) == written.text
    assert [a.text for a in chat.batch([messages, messages], max_new_tokens=6)] == [written.text] * 2


def test_the_text_readout_writes_even_with_labels(random_lm: Path, film_prompt: FilmPrompt) -> None:
    prompt = film_prompt("u")
    chat = EmbeddedChat.from_folder(random_lm, readout="text")
    written = chat.invoke(messages_of(prompt), labels=prompt.labels, max_new_tokens=6).text
    assert written == chat.invoke(messages_of(prompt), max_new_tokens=6).text


def test_stop_cuts_the_answer(chat: EmbeddedChat, film_prompt: FilmPrompt) -> None:
    messages = messages_of(film_prompt("u"))
    whole = chat.invoke(messages, max_new_tokens=6).text
    middle = whole[len(whole) // 2]
    assert chat.invoke(messages, max_new_tokens=6, stop=[middle]).text == whole.split(middle, 1)[0]


def test_a_label_it_has_no_number_for_is_refused_and_the_worker_lives_on(
    chat: EmbeddedChat, film_prompt: FilmPrompt
) -> None:
    prompt = film_prompt("u")
    with pytest.raises(InputError, match=r"label '51'.*1 to 50"):
        chat.invoke(messages_of(prompt), labels=("1", "51"))
    assert chat.invoke(messages_of(prompt), labels=prompt.labels).text


def test_messages_of_tools_are_refused(chat: EmbeddedChat) -> None:
    with pytest.raises(InputError, match="tool"):
        chat.invoke([HumanMessage("hi"), AIMessage("a"), ToolMessage("b", tool_call_id="1")])
