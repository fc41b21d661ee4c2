"""The white box: triggers are found where the served text has them, and gradients are those of finite differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from promptailor.prompts.errors import InputError
from promptailor.prompts.llm import Message

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from promptailor.app.backends.local.engine import Engine
from promptailor.app.backends.local.white_box import EngineWhiteBox
from promptailor.policies.white_box import WhiteBoxPrompt

TinyLlm = Callable[..., Path]

LABELS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")


@pytest.fixture
def box(tiny_llm: TinyLlm, kind: str) -> EngineWhiteBox:
    return EngineWhiteBox(Engine.from_folder(tiny_llm(kind)))


def messages(words: list[str], about: str = "Rank these movies.") -> list[Message]:
    return [Message(role="user", content=f"{about}\n {' '.join(words)}")]


def encoded(box: EngineWhiteBox, about: str = "Rank these movies.") -> WhiteBoxPrompt:
    """Return a prompt with the vocabulary's first three words that stand beside one another as themselves."""
    words = box.vocabulary("words").words
    for at in range(len(words) - 2):
        three = list(words[at : at + 3])
        if prompt := box.encode(messages(three, about), labels=LABELS, relevant=10, triggers=three):
            return prompt
    raise AssertionError("no three words")


def test_every_word_of_the_vocabulary_is_one_token_of_the_served_text(box: EngineWhiteBox) -> None:
    vocabulary = box.vocabulary("words")
    assert len(vocabulary.words) > 20
    assert all(word.isalpha() for word in vocabulary.words)
    for at in range(0, len(vocabulary.words) - 2, 3):
        words = list(vocabulary.words[at : at + 3])
        prompt = box.encode(messages(words), labels=LABELS, relevant=0, triggers=words)
        if prompt is None:  # the tokenizer makes one token of two words that often stand together
            continue
        assert prompt.tokens == tuple(box.engine.encode(messages(words)))
        assert [prompt.tokens[p] for p in prompt.positions] == [vocabulary.token_of(word) for word in words]
        assert prompt.exchanged(list(reversed([vocabulary.token_of(w) for w in words]))).tokens != prompt.tokens


def test_barred_words_and_what_no_text_can_be_are_no_triggers(box: EngineWhiteBox) -> None:
    words = box.vocabulary("words").words
    assert set(box.vocabulary("words", barred=[words[0].upper()]).words).isdisjoint({words[0]})
    every = box.vocabulary("any").words
    assert set(words) < set(every)
    assert set(every).isdisjoint(box.engine.tokenizer.all_special_tokens)
    assert box.encode(messages(["zyxq"]), labels=LABELS, relevant=0, triggers=["zyxq"]) is None


def test_gradients_are_those_of_finite_differences(box: EngineWhiteBox) -> None:
    box.engine.model.double()
    prompt = encoded(box)
    losses, gradients = box.gradients([prompt])
    embedded = box.engine.embed(prompt.tokens).detach()
    rng, step = np.random.default_rng(0), 1e-3  # log-probabilities are read in single precision
    for place, position in enumerate(prompt.positions):
        direction = rng.normal(size=embedded.shape[1])
        moved = torch.zeros_like(embedded)
        moved[position] = torch.from_numpy(direction * step)
        with torch.no_grad():
            ahead, behind = (-box.engine.label_log_probs(embedded + s, LABELS)[10] for s in (moved, -moved))
        slope = float(ahead - behind) / (2 * step)
        assert slope == pytest.approx(float(gradients[0, place] @ direction), rel=5e-3, abs=1e-3)
    assert losses[0] == pytest.approx(-box.label_log_probs([prompt])[0][10], abs=1e-4)


def test_a_prompt_in_a_batch_has_the_gradient_it_has_alone(box: EngineWhiteBox) -> None:
    prompts = [encoded(box, "Rank these." + n * " best") for n in (0, 9, 3)]
    losses, gradients = box.gradients(prompts)
    for n, prompt in enumerate(prompts):
        alone_loss, alone = box.gradients([prompt])
        assert losses[n] == pytest.approx(alone_loss[0], abs=1e-5)
        np.testing.assert_allclose(gradients[n], alone[0], atol=1e-5, rtol=1e-3)


def test_a_label_that_the_model_cannot_write_is_refused(box: EngineWhiteBox) -> None:
    with pytest.raises(InputError, match="label"):
        box.encode(messages(["the"]), labels=("x",), relevant=0, triggers=["the"])


def test_what_stands_before_the_triggers_is_kept_and_changes_nothing(
    box: EngineWhiteBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [encoded(box, "Rank these." + n * " best") for n in (0, 9, 3)]
    _, kept = box.gradients(prompts)
    scores = box.label_log_probs(prompts)
    assert box._prefixes._serves is True
    monkeypatch.setattr(box._prefixes, "_serves", False)
    _, whole = box.gradients(prompts)
    np.testing.assert_allclose(kept, whole, atol=1e-5, rtol=1e-3)
    for ours, plain in zip(scores, box.label_log_probs(prompts), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-4)
