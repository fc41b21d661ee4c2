"""Any model of this back end as a white box, for searches by gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from promptailor.app.backends.local.engine import Engine, by_length
from promptailor.app.backends.local.prefixes import Prefixes
from promptailor.policies.white_box import Floats, TriggerVocabulary, VocabularyKind, WhiteBoxPrompt
from promptailor.prompts.llm import Message

_WORD_STARTS = ("Ġ", "▁")
"""What stands for the blank before a word: in byte-level BPE, and in SentencePiece."""
_SHORTEST_WORD = 2
_SCORES_AT_ONCE, _GRADIENTS_AT_ONCE = 64, 32
_DECIMALS = 4
"""Log-probabilities are rounded as the engine's are, so that a batch's shape does not tell."""

Given = TypeVar("Given")


@dataclass(frozen=True)
class EngineWhiteBox:
    """A `policies.white_box.WhiteBox` over an engine; the weights stay frozen."""

    engine: Engine

    def vocabulary(self, kind: VocabularyKind, barred: Collection[str] = ()) -> TriggerVocabulary:
        """Return the words that are one token behind a blank, wherever in a line, in the order of their tokens."""
        tokenizer = self.engine.tokenizer
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special, no_words = set(tokenizer.all_special_ids), {word.casefold() for word in barred}
        starts = [
            token for token, piece in enumerate(pieces) if piece.startswith(_WORD_STARTS) and token not in special
        ]
        words = {token: self.engine.encoder.decode([token]).strip() for token in starts}
        if kind == "words":
            words = {
                token: word
                for token, word in words.items()
                if word.isalpha() and len(word) >= _SHORTEST_WORD and word.casefold() not in no_words
            }
        kept = self._stable({token: word for token, word in words.items() if word and len(word.split()) == 1})
        return TriggerVocabulary(words=tuple(kept.values()), tokens=tuple(kept), embeddings=self.embed(list(kept)))

    def encode(
        self, messages: Sequence[Message], *, labels: Sequence[str], relevant: int, triggers: Sequence[str]
    ) -> WhiteBoxPrompt | None:
        """Encode a prompt whose last line are the triggers, as `prompts.assemble` writes them."""
        tokens = self.engine.encode(messages, labels=labels, readout="first_token")
        asked = [self._token(word) for word in triggers]
        start = next(
            (at for at in range(len(tokens) - len(asked), -1, -1) if tokens[at : at + len(asked)] == asked), None
        )
        if start is None or [self._word(token) for token in asked] != list(triggers):
            return None
        return WhiteBoxPrompt(
            tokens=tuple(tokens),
            positions=tuple(range(start, start + len(asked))),
            labels=tuple(labels),
            relevant=relevant,
        )

    def embed(self, tokens: Sequence[int]) -> Floats:
        """Look tokens up in the model's input embeddings."""
        return self.engine.embed(list(tokens)).detach().double().cpu().numpy()

    def label_log_probs(self, prompts: Sequence[WhiteBoxPrompt]) -> list[Floats]:
        """Score prompts as serving by `first_token` does, up to the rounding of a batch."""
        with torch.no_grad():
            scored = self._by_length(prompts, _SCORES_AT_ONCE, lambda chunk: self._log_probs(chunk)[1])
        return [log_probs.numpy().round(_DECIMALS) for log_probs in scored]

    def gradients(self, prompts: Sequence[WhiteBoxPrompt]) -> tuple[Floats, Floats]:
        """Differentiate in batches of prompts of similar length."""
        done = self._by_length(prompts, _GRADIENTS_AT_ONCE, self._differentiate)
        return np.array([loss for loss, _ in done]), np.stack([gradient for _, gradient in done])

    def _differentiate(self, prompts: Sequence[WhiteBoxPrompt]) -> list[tuple[float, Floats]]:
        embedded, log_probs = self._log_probs(prompts)
        loss = -torch.stack([of[prompt.relevant] for of, prompt in zip(log_probs, prompts, strict=True)])
        loss.sum().backward()  # type: ignore[no-untyped-call]
        gradients = []
        for prompt, leaf in zip(prompts, embedded, strict=True):
            assert leaf.grad is not None, "every prompt's loss depends on its tokens"
            at = [position - len(prompt.tokens) for position in prompt.positions]  # the leaf may be the prompt's end
            gradients.append(leaf.grad[at].double().cpu().numpy())
        return list(zip(loss.tolist(), gradients, strict=True))

    def _log_probs(self, prompts: Sequence[WhiteBoxPrompt]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the embeddings, of the prompts' ends where that is enough, and what is differentiable in them."""
        labels = [prompt.labels for prompt in prompts]
        starts = [min(prompt.positions, default=len(prompt.tokens) - 1) for prompt in prompts]
        ends = [prompt.tokens[start:] for prompt, start in zip(prompts, starts, strict=True)]
        before = [prompt.tokens[:start] for prompt, start in zip(prompts, starts, strict=True)]
        if self.engine.causal and all(before) and self._prefixes.serve(before[0], ends[0], labels[0]):
            embedded = [self.engine.embed(end) for end in ends]
            return embedded, self._prefixes.log_probs(before, embedded, labels)
        embedded = [self.engine.embed(prompt.tokens) for prompt in prompts]
        return embedded, self.engine.log_probs_of(embedded, labels)

    @cached_property
    def _prefixes(self) -> Prefixes:
        return Prefixes(self.engine)

    def _by_length(
        self, prompts: Sequence[WhiteBoxPrompt], at_once: int, run: Callable[[list[WhiteBoxPrompt]], Sequence[Given]]
    ) -> list[Given]:
        return by_length(prompts, [len(prompt.tokens) for prompt in prompts], at_once, run)

    def _stable(self, words: dict[int, str]) -> dict[int, str]:
        """Keep the words that are their own token at the start of the triggers' line and behind another word."""
        lines = [f"\n {word} {word}" for word in words.values()]
        encoded = self.engine.tokenizer(lines, add_special_tokens=False)["input_ids"] if lines else []
        return {
            token: word for (token, word), ids in zip(words.items(), encoded, strict=True) if ids[-2:] == [token, token]
        }

    def _word(self, token: int) -> str:
        return self.engine.encoder.decode([token]).strip()

    def _token(self, word: str) -> int:
        """Return the token of a word behind a blank, the last one where there are several."""
        return int(self.engine.tokenizer.encode(f"\n {word}", add_special_tokens=False)[-1])
