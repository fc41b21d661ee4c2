"""Held decoding: a valid permutation for any tokenizer and whatever the model prefers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptailor.prompts.llm import Message

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from promptailor.app.backends.local.engine import Engine
from promptailor.app.backends.local.labels import LABELS, LabelTokens
from promptailor.app.backends.local.permutation import PermutationWalk

END = 99
ENCODERS: dict[str, Callable[[str], list[int]]] = {
    "characters": lambda text: [ord(c) for c in text],
    "numbers and line breaks in one": lambda text: [hash(line) for line in text.splitlines(keepends=True)],
    "pairs": lambda text: [hash(text[i : i + 2]) for i in range(0, len(text), 2)],
    "a blank of its own before a text": lambda text: [32, *(ord(c) for c in text[1:])],
}
"""Texts begin with one letter of a prompt."""


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@given(data=st.data(), n=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_any_walk_ends_in_a_permutation_within_the_longest(
    encode: Callable[[str], list[int]], data: st.DataObject, n: int
) -> None:
    tokens = LabelTokens.of(encode, "x", None)
    labels = data.draw(st.permutations(list(tokens.first)[:n]))
    walk = PermutationWalk(tokens, labels, END)
    choose = data.draw(st.randoms(use_true_random=False))
    for _ in range(tokens.longest(labels) - len(tokens.lead)):
        walk.take(choose.choice(walk.allowed()))
    assert sorted(walk.ranking) == sorted(labels)
    assert walk.allowed() == [END]
    assert walk.n_tokens <= tokens.longest(labels)


def test_a_token_that_leads_nowhere_is_an_error() -> None:
    walk = PermutationWalk(LabelTokens.of(ENCODERS["characters"], "x", None), LABELS[:3], END)
    with pytest.raises(ValueError, match="goes on to no label"):
        walk.take(ord("7"))


def test_a_digit_is_only_gone_on_with_where_a_label_is_left_for_it() -> None:
    walk = PermutationWalk(LabelTokens.of(ENCODERS["characters"], "x", None), ("1", "2", "12"), END)
    assert sorted(map(chr, walk.allowed())) == ["1", "2"]
    walk.take(ord("1"))
    assert sorted(map(chr, walk.allowed())) == ["\n", "2"]
    walk.take(ord("2"))
    walk.take(ord("\n"))
    assert walk.ranking == ["12"]
    walk.take(ord("1"))
    assert list(map(chr, walk.allowed())) == ["\n"]


@pytest.fixture(scope="module")
def engines(tiny_llm: Callable[..., Path]) -> dict[str, Engine]:
    return {kind: Engine.from_folder(tiny_llm(kind)) for kind in ("llama", "qwen2", "mistral", "gpt2")}


@given(
    seed=st.integers(0, 9),
    asked=st.lists(st.tuples(st.text(max_size=20), st.integers(1, 12)), min_size=1, max_size=3),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_random_model_always_orders_every_label_once(
    engines: dict[str, Engine], kind: str, seed: int, asked: list[tuple[str, int]]
) -> None:
    engine = engines[kind]
    torch.manual_seed(seed)
    for parameter in engine.model.parameters():
        parameter.data.normal_(std=0.5)
    prompts = [engine.encode([Message(role="user", content=text)]) for text, _ in asked]
    labels = [LABELS[:n] for _, n in asked]
    for ordered, of_prompt in zip(engine.order_tokens(prompts, labels), labels, strict=True):
        assert sorted(ordered.ranking) == sorted(of_prompt)


def test_the_model_chooses_greedily_among_the_labels_left(engines: dict[str, Engine]) -> None:
    """Step by step with whole passes over the text so far, where every label is one token."""
    engine = engines["llama"]
    prompt = engine.encode([Message(role="user", content="Rank these.")])
    row, left, expected = list(prompt), list(LABELS[:6]), []
    while left:
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([row])).logits[0, -1]
        best = max(left, key=lambda label: float(logits[engine.labels.first[label][0]]))
        expected.append(best)
        left.remove(best)
        row += [engine.labels.first[best][0], *engine.labels.later[best][:1]]
    assert list(engine.order_tokens([prompt], [LABELS[:6]])[0].ranking) == expected
