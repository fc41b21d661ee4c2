"""Chat messages become token ids, by the model's own chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from promptailor.app.backends.local.labels import LabelTokens
from promptailor.prompts.errors import InputError
from promptailor.prompts.llm import Message

_SYSTEM, _USER = "be brief", "rank these."
_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|#{2,}")
"""What templates set roles off with, where it is plain text to the tokenizer, as `[INST]` and `###` often are."""


class ChatEncoder:
    """Renders conversations with a chat template and turns them into token ids.

    No text inside a message can pass for a special token or for the template's own markers: such strings are broken by
    a blank. Where the template knows no system message, its text opens the first user message.

    Raises:
        InputError: the tokenizer has no chat template, or cannot write numbers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template; name an instruction-tuned model, "
                "or put a chat_template.jinja into the folder"
            )
        self.tokenizer = tokenizer
        system = {"role": "system", "content": _SYSTEM}
        user, assistant = ({"role": role, "content": _USER} for role in ("user", "assistant"))
        self._knows_system = _SYSTEM in self._rendered_or_empty([system, user])  # some templates raise, some drop it
        sample = self._render([user])
        turns = self._rendered_or_empty([*([system] if self._knows_system else []), user, assistant, user])
        markers = {*tokenizer.all_special_tokens, *_MARKER.findall(sample + turns)}
        self._markers = re.compile("|".join(map(re.escape, sorted(markers, key=lambda m: (-len(m), m)))) or "(?!)")
        self.labels = LabelTokens.of(self._ids, sample, tokenizer.unk_token_id)
        """How the candidates' numbers are written behind a prompt."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Encode a conversation up to where the model answers; one the template refuses is an `InputError`."""
        chat = [{"role": message.role, "content": self._harmless(message.content)} for message in messages]
        if not self._knows_system:
            chat = _without_system(chat)
        try:
            return self._ids(self._render(chat))
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise InputError(f"messages ({roles}): the model's chat template refuses them: {error}") from None

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode an answer, special tokens left out."""
        text: Any = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return str(text)

    def _rendered_or_empty(self, chat: Sequence[dict[str, str]]) -> str:
        """Render a conversation that the template may refuse."""
        try:
            return self._render(chat)
        except TemplateError:
            return ""

    def _render(self, chat: Sequence[dict[str, str]]) -> str:
        """Render a conversation; a model that may think first is told to answer at once."""
        template: Any = self.tokenizer.apply_chat_template
        return str(template(list(chat), tokenize=False, add_generation_prompt=True, enable_thinking=False))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)  # the template writes them
        return ids

    def _harmless(self, text: str) -> str:
        return self._markers.sub(lambda marker: f"{marker[0][0]} {marker[0][1:]}", text)


def _without_system(chat: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the conversation with the system's text at the head of the first message of another role."""
    system = [message["content"] for message in chat if message["role"] == "system"]
    others = [message for message in chat if message["role"] != "system"] or [{"role": "user", "content": ""}]
    first = {**others[0], "content": "\n".join([*system, others[0]["content"]])}
    return [first, *others[1:]]


class PlainEncoder:
    """Turns conversations into token ids as plain text, one message below the other, for models without a template.

    No text inside a message can pass for a special token: such strings are broken by a blank.

    Raises:
        InputError: the tokenizer cannot write numbers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        special = sorted(tokenizer.all_special_tokens, key=lambda token: (-len(token), token))
        self._markers = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self.labels = LabelTokens.of(self._ids, "", tokenizer.unk_token_id)
        """How the candidates' numbers are written at the beginning of an answer."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Encode a conversation, with the end token that the tokenizer puts behind an input."""
        text = "\n".join(message.content for message in messages)
        ids: list[int] = self.tokenizer.encode(self._markers.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text))
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode an answer, special tokens left out."""
        text: Any = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return str(text)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids
