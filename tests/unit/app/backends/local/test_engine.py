"""The engine: label probabilities against exhaustive scoring, padding, gradients, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from promptailor.prompts.errors import InputError
from promptailor.prompts.llm import Message

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from promptailor.app.backends.local.bare import bare_generate
from promptailor.app.backends.local.engine import Engine, LabelScores
from promptailor.app.backends.local.loading import load_causal_lm

TinyLlm = Callable[..., Path]


@pytest.fixture
def engine(tiny_llm: TinyLlm, kind: str) -> Engine:
    return Engine.from_folder(tiny_llm(kind))


def ask(text: str, n_words: int = 3) -> list[Message]:
    """Return a short prompt; long ones would only be slow."""
    return [Message(role="user", content=text + n_words * " film")]


def numbers(n: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(1, n + 1))


def render(engine: Engine, messages: Sequence[Message]) -> str:
    """Render the way a script would; two of the models read no system messages."""
    chat = [{"role": m.role, "content": m.content} for m in messages]
    text: Any = engine.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return str(text)


def sequence_log_prob(engine: Engine, text: str, answer: str) -> float:
    """Score the tokens by which text and answer differ from the text alone, one pass for this answer only."""
    encode = engine.tokenizer.encode
    bare, whole = encode(text, add_special_tokens=False), encode(text + answer, add_special_tokens=False)
    shared = next((i for i, (a, b) in enumerate(zip(bare, whole, strict=False)) if a != b), len(bare))
    with torch.no_grad():
        log_probs = engine.model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return float(sum(log_probs[i - 1, whole[i]] for i in range(shared, len(whole))))


@pytest.mark.parametrize("n_labels", [7, 12, 50])
def test_label_probabilities_are_those_of_exhaustive_scoring(engine: Engine, kind: str, n_labels: int) -> None:
    """Where a number is written in digits, a label's own share is its text's less that of the labels that go on."""
    user, labels = ask("Rank these."), numbers(n_labels)
    text = render(engine, user)
    mass = {label: math.exp(sequence_log_prob(engine, text, label)) for label in labels}
    if kind in ("qwen2", "mistral"):
        for label in numbers(min(n_labels, 9)):
            mass[label] -= sum(mass[other] for other in labels if len(other) == 2 and other.startswith(label))
    scores = engine.rank_batch([user], [labels])[0]
    for label in labels:
        assert scores.log_probs[label] == pytest.approx(math.log(mass[label] / sum(mass.values())), abs=2e-4)


def test_equal_scores_keep_label_order() -> None:
    assert LabelScores({"1": -2.0, "2": -1.0, "3": -2.0, "4": -1.0}).ranking == ("2", "4", "1", "3")


def test_a_prompt_is_answered_alike_alone_and_in_a_batch_of_any_lengths(engine: Engine) -> None:
    encoded = [engine.encode(ask(f"User {n}", n_words=(7 * n) % 18)) for n in range(18)]
    labels = [numbers(2 + n % 5) if n else numbers(12) for n in range(18)]
    ranked, ordered = engine.rank_tokens(encoded, labels), engine.order_tokens(encoded, labels)
    written = engine.generate_tokens(encoded, 5)
    assert len({len(prompt) for prompt in encoded}) > 10
    for i in range(0, 18, 3):
        assert engine.rank_tokens(encoded[i : i + 1], labels[i : i + 1])[0].ranking == ranked[i].ranking
        assert engine.order_tokens(encoded[i : i + 1], labels[i : i + 1]) == ordered[i : i + 1]
        assert engine.generate_tokens(encoded[i : i + 1], 5) == written[i : i + 1]


def test_padding_on_the_right_does_not_change_a_score(engine: Engine) -> None:
    short, long = ask("Rank these."), ask("Rank these.", n_words=60)
    alone = engine.rank_batch([short], [numbers(12)])[0]
    padded = engine.rank_batch([short, long], [numbers(12), numbers(20)])[0]
    assert list(padded.log_probs.values()) == pytest.approx(list(alone.log_probs.values()), abs=1.1e-4)


def test_the_gradient_of_a_label_reaches_every_token_of_the_prompt(engine: Engine) -> None:
    tokens, labels = engine.encode(ask("Rank these.")), numbers(12)
    embeddings = engine.embed(tokens)
    log_probs = engine.label_log_probs(embeddings, labels)
    expected = engine.rank_tokens([tokens], [labels])[0].log_probs
    assert log_probs.tolist() == pytest.approx(list(expected.values()), abs=1e-4)
    log_probs[2].backward()  # type: ignore[no-untyped-call]
    gradient = embeddings.grad
    assert gradient is not None
    kept = len(tokens) - engine.labels.n_merged
    assert bool((gradient[:kept].norm(dim=1) > 0).all())
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (engine.label_log_probs(embeddings + s, labels)[2] for s in (step, -step))
    assert float(ahead - behind) == pytest.approx(2e-2 * float(gradient.norm()), rel=0.05)


def test_half_precision_ranks_nearly_alike(tiny_llm: TinyLlm) -> None:
    whole, half = (Engine(*load_causal_lm(str(tiny_llm("qwen2")), dtype=d)) for d in ("float32", "bfloat16"))
    assert half.model.dtype == torch.bfloat16
    one, other = (e.rank_batch([ask("Rank these.")], [numbers(9)])[0].log_probs for e in (whole, half))
    assert list(other.values()) == pytest.approx(list(one.values()), abs=0.3)
    assert other != one


def test_a_model_that_answers_no_numbers_is_an_error_and_no_ranking(tiny_llm: TinyLlm) -> None:
    engine = Engine.from_folder(tiny_llm("llama"))
    engine.model.get_input_embeddings().weight.data.fill_(math.nan)
    with pytest.raises(InputError, match="give another dtype"):
        engine.rank_batch([ask("Rank these.")], [numbers(3)])


def test_bare_generate_does_the_same_work(engine: Engine) -> None:
    calls: list[int] = []
    engine.model.register_forward_hook(lambda *_: calls.append(1))
    prompts = [ask(f"User {n}", n_words=n) for n in range(3)]
    bare_generate(engine, prompts, 4)
    n_bare = len(calls)
    engine.generate_texts(prompts, 4)
    assert n_bare == len(calls) - n_bare == 4
