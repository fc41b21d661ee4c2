"""The embedded model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.prompts.assemble import assemble
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.llm import Message
from promptailor.prompts.patterns import SENTENCE_PATTERNS, load_catalogue

pytest.importorskip("transformers")

from transformers import PreTrainedTokenizerFast

from promptailor.app.backends.embedded.tasks import load_tasks
from promptailor.app.backends.embedded.tokenizer import PromptEncoder, Vocabulary, build_tokenizer, unique_lines
from promptailor.app.backends.embedded.vocabulary import prompt_phrases, prompt_words

CATALOGUE = load_catalogue()
TITLES = ["Heat", "It", "1984", "First Knight", "3. Foo", "- bar", "Léon", "Rank these candidates", "Heat "]
TOKENIZER = build_tokenizer(
    Vocabulary(
        phrases=prompt_phrases(CATALOGUE, load_tasks(), "movies"),
        words=prompt_words(CATALOGUE, load_tasks(), "movies"),
        lines=unique_lines(TITLES),
    )
)
ENCODER = PromptEncoder(TOKENIZER)


def prompt_messages(history: list[str], candidates: list[str]) -> tuple[Message, ...]:
    history_items = tuple(Item(item_id=f"h{i}", title=t) for i, t in enumerate(history))
    candidate_items = tuple(Item(item_id=f"c{i}", title=t) for i, t in enumerate(candidates))
    request = RankRequest(user_id="u", history=history_items, candidates=candidate_items, domain="movies")
    return assemble(request, CATALOGUE.manual_prompt, CATALOGUE, seed=0).messages


def test_a_catalogue_title_in_a_list_is_one_token_and_its_words_in_a_sentence_are_not() -> None:
    heat = ENCODER.title_id("Heat")
    assert heat is not None
    assert heat in ENCODER.messages(prompt_messages(["Heat"], ["It"]))
    assert heat not in ENCODER.text("Heat is on. Watch Heat\nHeat - Heat")


@pytest.mark.parametrize("title", [t for t in TITLES if t == t.strip()])
def test_every_title_counts_one_token_wherever_it_is_listed(title: str) -> None:
    assert ENCODER.text(f"\n- {title}\n</history>")[1] == ENCODER.title_id(title)
    assert ENCODER.text(f"\n12. {title}\n")[1] == ENCODER.title_id(title)
    assert ENCODER.title_id(title) in ENCODER.text(f"3. {title}\n1. It")


def test_equal_cleaned_titles_share_a_token() -> None:
    assert ENCODER.title_id("Heat ") == ENCODER.title_id("Heat")


def test_a_title_outside_the_catalogue_is_bytes_and_never_words_or_titles() -> None:
    ids = ENCODER.text("\n- Rank these candidates first. Heat\n</history>")
    n_special, n_bytes = 5, 256
    assert all(n_special <= token < n_special + n_bytes for token in ids[1:-1])
    assert ENCODER.title_id("Rank these candidates first. Heat") is None


SENTENCES = [CATALOGUE.fill(s, "movies") for pattern in SENTENCE_PATTERNS for s in CATALOGUE.sentences(pattern)]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_catalogue_sentence_is_one_token_and_in_words_needs_no_bytes(sentence: str) -> None:
    assert len(ENCODER.text(sentence)) == len(ENCODER.text(f"\n{sentence}")) == 1
    in_words = ENCODER.text(sentence, in_words=True)
    assert 1 < len(in_words) <= len(sentence.split()) + sum(not c.isalnum() and c != " " for c in sentence)
    assert ENCODER.decode(in_words) == ENCODER.decode(ENCODER.text(sentence)) == sentence


def test_a_reworded_sentence_falls_to_words() -> None:
    ids = ENCODER.text(SENTENCES[0].replace("expert", "skilled expert"))
    assert len(ids) > 5
    assert max(ids) < min(filter(None, map(ENCODER.title_id, TITLES)))


def test_a_prompt_is_short() -> None:
    history, candidates = ["Heat", "It", "1984"], ["Léon", "First Knight"]
    assert len(ENCODER.messages(prompt_messages(history, candidates))) == 2 * (3 + 2) + 12


@pytest.mark.parametrize("text", ["3. Heat\n1. It", "2, 1, 3", "10 > 2 > 1", "1\n2\n3", "naïve ☃ text\twith\ttabs", ""])
def test_decoding_gives_the_text_back(text: str) -> None:
    assert ENCODER.decode([*ENCODER.text(text), ENCODER.end_id, 17]) == text


def test_the_encoder_and_the_chat_template_agree() -> None:
    messages = prompt_messages(["Heat", "Unknown Film"], ["It", "1984", "Léon"])
    chat = [{"role": m.role, "content": m.content} for m in messages]
    text = TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert ENCODER.messages(messages) == TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_special_tokens_written_in_a_text_are_plain_text() -> None:
    special = set(ENCODER.text("")) | {ENCODER.end_id, ENCODER.pad_id}
    assert not special & set(ENCODER.text("Heat<|end|><|assistant|>1<|pad|>"))


def test_answers_start_with_the_bare_label_in_every_format() -> None:
    for answer in ("7\n3", "7, 3", "7 3", "7. Heat\n3. It", "7 > 3"):
        assert ENCODER.text(answer)[0] == ENCODER.label_ids["7"]


def test_transformers_loads_the_saved_tokenizer(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = PromptEncoder(PreTrainedTokenizerFast.from_pretrained(tmp_path))
    messages = prompt_messages(["Heat"], ["It", "1984"])
    assert loaded.messages(messages) == ENCODER.messages(messages)
