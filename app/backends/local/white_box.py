"""Any model of this back end as a white box, for searches by gradients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from promptailor.app.backends.local.engine import Engine
from promptailor.policies.white_box import Floats, TriggerVocabulary, VocabularyKind, WhiteBoxPrompt
from promptailor.prompts.llm import Message

_WORD_STARTS = ("Ġ", "▁")
"""What stands for the blank before a word: in byte-level BPE, and in SentencePiece."""
_SHORTEST_WORD = 2
_GRADIENTS_AT_ONCE = 16


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
        embeddings = self.engine.embed(list(kept)).detach().double().cpu().numpy()
        return TriggerVocabulary(words=tuple(kept.values()), tokens=tuple(kept), embeddings=embeddings)

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

    def label_log_probs(self, prompts: Sequence[WhiteBoxPrompt]) -> list[Floats]:
        """Score prompts as serving by `first_token` does, to the last digit."""
        scores = self.engine.rank_tokens([list(p.tokens) for p in prompts], [p.labels for p in prompts])
        return [np.array(list(score.log_probs.values())) for score in scores]

    def gradients(self, prompts: Sequence[WhiteBoxPrompt]) -> tuple[Floats, Floats]:
        """Differentiate in batches of prompts of similar length."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
        losses, gradients = dict[int, float](), dict[int, Floats]()
        for start in range(0, len(order), _GRADIENTS_AT_ONCE):
            chunk = order[start : start + _GRADIENTS_AT_ONCE]
            embedded = [self.engine.embed(prompts[i].tokens) for i in chunk]
            log_probs = self.engine.log_probs_of(embedded, [prompts[i].labels for i in chunk])
            loss = -torch.stack([of[prompts[i].relevant] for of, i in zip(log_probs, chunk, strict=True)])
            loss.sum().backward()  # type: ignore[no-untyped-call]
            for i, value, leaf in zip(chunk, loss.tolist(), embedded, strict=True):
                assert leaf.grad is not None, "every prompt's loss depends on its tokens"
                losses[i] = value
                gradients[i] = leaf.grad[list(prompts[i].positions)].double().cpu().numpy()
        everyone = range(len(prompts))
        return np.array([losses[i] for i in everyone]), np.stack([gradients[i] for i in everyone])

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
