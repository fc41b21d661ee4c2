"""Token ids of a prompt and the answer to learn, split where the model that is asked starts to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptailor.app.backends.local.encoder import ChatEncoder
from promptailor.prompts.llm import Message


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A prompt and the answer to learn."""

    prompt: list[int]
    answer: list[int]
    """Ends with the end token."""

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.answer)


class ExampleEncoder:
    """Encodes prompts as the model is asked them, and answers as its tokenizer writes them behind a prompt.

    Args:
        encoder: of the base model's chats.
        end: the token that ends an answer.
    """

    def __init__(self, encoder: ChatEncoder, end: int) -> None:
        self._encoder, self._end = encoder, end
        # All prompts end alike, so how an answer is written behind one can be seen behind the shortest.
        self._shortest = str(
            encoder.tokenizer.apply_chat_template(
                [{"role": "user", "content": "."}], tokenize=False, add_generation_prompt=True
            )
        )
        self._n_kept = len(self._ids(self._shortest)) - encoder.labels.n_merged

    def encode(self, messages: Sequence[Message], answer: str) -> EncodedExample:
        """Encode a conversation and its answer, which begins with a candidate's number."""
        prompt = self._encoder.encode(messages)
        written = self._ids(self._shortest + answer)[self._n_kept :]
        return EncodedExample(prompt[: len(prompt) - self._encoder.labels.n_merged], [*written, self._end])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.tokenizer.encode(text, add_special_tokens=False)
        return ids
