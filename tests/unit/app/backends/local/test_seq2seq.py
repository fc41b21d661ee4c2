"""Encoder-decoder models: scored, decoded and differentiated like the others, and served by the same chat model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError
from promptailor.prompts.llm import Message

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from promptailor.app.backends.local import load
from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.local.loading import load_causal_lm
from promptailor.app.backends.local.white_box import EngineWhiteBox

LABELS = ("1", "2", "3", "10", "11")
ASK = [Message(role="system", content="Be brief."), Message(role="user", content="Rank these movies.")]


@pytest.fixture(scope="module")
def chat(tiny_llm: Callable[..., Path]) -> LocalChat:
    return load(ModelSpec.parse(f"transformers:{tiny_llm('t5')}"), Settings())


def test_labels_are_scored_as_the_first_tokens_of_the_decoder(chat: LocalChat) -> None:
    engine = chat.engine
    text = "Be brief.\nRank these movies."
    inputs = torch.tensor([engine.tokenizer.encode(text)])
    assert inputs[0, -1] == engine.tokenizer.eos_token_id
    start = torch.tensor([[engine.model.config.decoder_start_token_id]])
    with torch.no_grad():
        logits = engine.model(input_ids=inputs, decoder_input_ids=start).logits[0, -1].double()
    mass = {label: logits[engine.tokenizer.encode(label, add_special_tokens=False)[0]] for label in LABELS}
    total = torch.logsumexp(torch.stack(list(mass.values())), dim=0)
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage("Rank these movies.")], labels=LABELS)
    for label, log_prob in answer.response_metadata["label_log_probs"].items():
        assert log_prob == pytest.approx(float(mass[label] - total), abs=2e-4)
    assert sorted(str(answer.content).split("\n")) == sorted(LABELS)


def test_a_prompt_is_scored_in_a_batch_as_alone(chat: LocalChat) -> None:
    prompts = [chat.engine.encode([*ASK, Message(role="user", content="movies " * n)]) for n in (1, 9, 4)]
    batch = chat.engine.rank_tokens(prompts, [LABELS] * 3)
    assert batch == [chat.engine.rank_tokens([prompt], [LABELS])[0] for prompt in prompts]


def test_it_writes_and_orders(chat: LocalChat) -> None:
    engine, prompt = chat.engine, chat.engine.encode(ASK)
    written = engine.generate_tokens([prompt, prompt[:-2]], 5)
    assert [len(tokens) <= 5 for tokens in written] == [True, True]
    assert written[0] == engine.generate_tokens([prompt], 5)[0]
    assert sorted(engine.order_tokens([prompt], [LABELS])[0].ranking) == sorted(LABELS)


def test_gradients_at_triggers_are_those_of_finite_differences(chat: LocalChat) -> None:
    chat.engine.model.double()
    box = EngineWhiteBox(chat.engine)
    words = list(box.vocabulary("words").words[:2])
    messages = [Message(role="user", content="Rank these.\n " + " ".join(words))]
    prompt = box.encode(messages, labels=LABELS, relevant=3, triggers=words)
    assert prompt is not None
    assert prompt.tokens == tuple(chat.engine.encode(messages))
    _, gradients = box.gradients([prompt])
    embedded, step = chat.engine.embed(prompt.tokens).detach(), 1e-3
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=embedded.shape[1]))
    for place, position in enumerate(prompt.positions):
        moved = torch.zeros_like(embedded)
        moved[position] = direction * step
        with torch.no_grad():
            ahead, behind = (-chat.engine.label_log_probs(embedded + s, LABELS)[3] for s in (moved, -moved))
        slope = float(ahead - behind) / (2 * step)
        assert slope == pytest.approx(float(gradients[0, place] @ direction.numpy()), rel=5e-3, abs=1e-3)


def test_where_a_causal_model_is_needed_it_is_refused(tiny_llm: Callable[..., Path]) -> None:
    with pytest.raises(SpecError, match="causal"):
        load_causal_lm(str(tiny_llm("t5")))
