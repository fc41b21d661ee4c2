"""The embedded model's tokenizer: one token per title, per catalogue sentence and per word; bytes for anything else.

A catalogue sentence, with its domain words, is one token, as any frequent string is in a trained BPE: prompts are
less than half as long. Anything reworded falls to words, and training shows the catalogue's own sentences both ways.

A title is a token only as a whole line of a list ("- title", "3. title"): a normalizer turns the blank after the list
marker into a private-use character, which the pre-tokenizer never splits behind. So the film `Heat` and the word
"Heat" differ, no words inside a title can read as an instruction, and a title outside the catalogue falls to bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from promptailor.prompts.assemble import clean_title
from promptailor.prompts.llm import Message

MAX_LABEL = 50
"""Candidates a prompt can number; more are ranked in windows."""

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, SYSTEM, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_TITLE = "\ue000"  # stands for the blank before a title; `clean_title` removes private-use characters from titles
_LIST_BLANK = r"(?<=\n-|\A\d\.|\A\d\d\.|\n\d\.|\n\d\d\.) (?=\S)"
_PIECES = (
    rf"{_TITLE}[^\n]+"  # a title
    rf"|\n\d+\.(?={_TITLE})"  # the number before a title: one token with its line break
    r"|[ \n]?\d+"
    r"|[ \n]?</?[a-z]+>"  # a fence
    r"|[ \n]?\p{L}+"
    r"|[ \n]?[^\s\p{L}\d]"
    r"|\s"
)
_NUMBER_FORMS = ("{n}", " {n}", "\n{n}", f"\n{{n}}.{_TITLE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What the token ids stand for, in id order: special tokens, bytes, numbers, phrases, words, then lines."""

    phrases: tuple[str, ...]
    """Whole sentences and headings; each has a second token with a line break before it."""

    words: tuple[str, ...]
    """Pre-tokens of the prompts' own language, a leading blank or line break included."""
    lines: tuple[str, ...]
    """What may stand behind a list marker: cleaned titles, each once, in the order of their first item; then the lines
    of user profiles."""


def unique_lines(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the cleaned texts, each once, in order of first occurrence: items with equal titles share a token."""
    return tuple(dict.fromkeys(map(clean_title, texts)))


def collect_words(texts: Iterable[str]) -> tuple[str, ...]:
    """Return every pre-token of the texts that is neither a title nor a number label, sorted."""
    split = _splitter(())
    normalizer = _normalizer()
    numbers = {pieces for n in range(1, MAX_LABEL + 1) for pieces in (f"{n}", f" {n}", f"\n{n}", f"\n{n}.")}
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(normalizer.normalize_str(text))}
    return tuple(sorted(p for p in pieces if not p.startswith(_TITLE) and p not in numbers and len(p.encode()) > 1))


def build_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """Build the tokenizer; equal vocabularies give equal ids."""
    alphabet = _byte_alphabet()
    tokens = list(SPECIAL) + [alphabet[byte] for byte in range(256)]
    numbers = [form.format(n=n).rstrip(_TITLE) for form in _NUMBER_FORMS for n in range(1, MAX_LABEL + 1)]
    phrases = [text for phrase in vocabulary.phrases for text in (phrase, f"\n{phrase}")]
    tokens += [_as_bytes(text, alphabet) for text in (*numbers, *phrases, *vocabulary.words)]
    tokens += [_as_bytes(_TITLE + title, alphabet) for title in vocabulary.lines]
    ids: dict[str, int] = {}
    for token in tokens:
        ids.setdefault(token, len(ids))
    core = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    core.normalizer = _normalizer()
    core.pre_tokenizer = _pre_tokenizer(vocabulary.phrases)
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(_TITLE, " ")])
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, pad_token=PAD, eos_token=END, padding_side="left", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


class PromptEncoder:
    """Turns chat messages into token ids, exactly as the chat template does but blind to special tokens in the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._core.encode_special_tokens = True
        self._in_words = Tokenizer.from_str(self._core.to_str())
        self._in_words.encode_special_tokens = True
        self._in_words.pre_tokenizer = _pre_tokenizer(())
        self.pad_id, self.end_id, *roles = range(len(SPECIAL))
        self._roles = dict(zip(("system", "user", "assistant"), roles, strict=True))
        self.vocab_size = self._core.get_vocab_size()
        self.number_forms = [self._forms(n) for n in range(1, MAX_LABEL + 1)]
        """Tokens of each number from 1: bare, behind a blank, behind a line break, and before a listed title."""
        self.label_ids = {str(n): forms[0] for n, forms in enumerate(self.number_forms, 1)}
        self.marker_ids = [forms[-1] for forms in self.number_forms]
        self.number_of = {token: n for n, forms in enumerate(self.number_forms, 1) for token in forms}

    def text(self, text: str, *, in_words: bool = False) -> list[int]:
        """Encode bare text, such as an answer; `in_words` spells catalogue sentences out."""
        core = self._in_words if in_words else self._core
        ids: list[int] = core.encode(text, add_special_tokens=False).ids
        return ids

    def messages(self, messages: Sequence[Message], *, in_words: bool = False) -> list[int]:
        """Encode a conversation up to and including the marker after which the model answers."""
        ids: list[int] = []
        for message in messages:
            ids += [self._roles[message.role], *self.text(message.content, in_words=in_words), self.end_id]
        return [*ids, self._roles["assistant"]]

    def _forms(self, number: int) -> tuple[int, ...]:
        texts = (f"{number}", f" {number}", f"\n{number}", f"\n{number}. -")
        return tuple(self.text(text)[0] for text in texts)

    def phrase_ids(self, phrases: Iterable[str]) -> list[int]:
        """Return the tokens of whole phrases, at the start of a text and of a line."""
        return [token for phrase in phrases for text in (phrase, f"\n{phrase}") for token in self.text(text)]

    def title_id(self, title: str) -> int | None:
        """Return the token of a title, None where it is not in the catalogue."""
        ids = self.text(f"\n- {clean_title(title)}")
        return ids[1] if len(ids) == 2 else None

    def decode(self, ids: Sequence[int]) -> str:
        """Decode an answer up to its end token."""
        ids = list(ids)
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        text: str = self._core.decode(ids, skip_special_tokens=True)
        return text


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Replace(Regex(_LIST_BLANK), _TITLE)


def _splitter(phrases: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    longest_first = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    whole = "".join(rf"\n?{re.escape(phrase)}|" for phrase in longest_first)
    return pre_tokenizers.Split(Regex(whole + _PIECES), behavior="isolated")


def _pre_tokenizer(phrases: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([_splitter(phrases), to_bytes])


def _byte_alphabet() -> list[str]:
    """Return the printable character that the ByteLevel pre-tokenizer uses for each byte (GPT-2's table)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


def _as_bytes(text: str, alphabet: Sequence[str]) -> str:
    return "".join(alphabet[byte] for byte in text.encode())
