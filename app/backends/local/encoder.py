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
        self._markers: re.Pattern[str] | None = None
        self._knows_system = self._renders(_SYSTEM)
        sample = self._render([{"role": "user", "content": _USER}])
        markers = {*tokenizer.all_special_tokens, *_MARKER.findall(sample)}
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

    def _renders(self, system: str) -> bool:
        """Tell whether a system message gets through: some templates raise, some drop it."""
        chat = [{"role": "system", "content": system}, {"role": "user", "content": _USER}]
        try:
            return system in self._render(chat)
        except TemplateError:
            return False

    def _render(self, chat: Sequence[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)  # the template writes them
        return ids

    def _harmless(self, text: str) -> str:
        return text if self._markers is None else self._markers.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)


def _without_system(chat: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the conversation with the system's text at the head of the first message of another role."""
    system = [message["content"] for message in chat if message["role"] == "system"]
    others = [message for message in chat if message["role"] != "system"] or [{"role": "user", "content": ""}]
    first = {**others[0], "content": "\n".join([*system, others[0]["content"]])}
    return [first, *others[1:]]
