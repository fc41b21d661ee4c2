"""Encoder-decoder models, such as T5 and PAP-REC's P5: the encoder reads the prompt, the decoder answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from promptailor.app.backends.local.encoder import PlainEncoder
from promptailor.app.backends.local.engine import Engine, LabelScores, by_length, placed
from promptailor.app.backends.local.permutation import PermutationProcessor
from promptailor.app.backends.local.trie import LabelTrie
from promptailor.prompts.errors import InputError


class Seq2SeqEngine(Engine):
    """An engine whose prompts go through an encoder; an answer begins behind the decoder's start token.

    Attention in the encoder runs both ways, so every token of a prompt depends on its last ones.
    """

    causal = False

    def make_encoder(self) -> PlainEncoder:
        """Read messages as plain text: these models have no chat template."""
        return PlainEncoder(self.tokenizer)

    def rank_tokens(self, prompts: Sequence[list[int]], labels: Sequence[Sequence[str]]) -> list[LabelScores]:
        """Score the labels of encoded prompts as the beginning of the decoder's answer."""

        def run(chunk: Sequence[int]) -> list[torch.Tensor]:
            embedded = [self.embed(prompts[i]).detach() for i in chunk]
            return self.log_probs_of(embedded, [labels[i] for i in chunk])

        with torch.no_grad():
            scored = by_length(range(len(prompts)), [len(p) for p in prompts], self.scored_at_once, run)
        return [
            LabelScores.of(dict(zip(of_prompt, log_probs.tolist(), strict=True)))
            for of_prompt, log_probs in zip(labels, scored, strict=True)
        ]

    def log_probs_of(self, embeddings: Sequence[torch.Tensor], labels: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        """Return the log-probability of each label, differentiable in the embeddings that the encoder reads."""
        tries: list[LabelTrie] = [self.trie(tuple(of_prompt)) for of_prompt in labels]
        mask = pad_sequence([torch.ones(len(e), device=e.device) for e in embeddings], batch_first=True)
        encode: Any = self.model.get_encoder()
        seen = encode(inputs_embeds=pad_sequence(list(embeddings), batch_first=True), attention_mask=mask)
        begin = [self._start, *self.labels.lead]
        rows = [(i, [*begin, *tail], places) for i, trie in enumerate(tries) for tail, places in trie.rows]
        of = [i for i, _, _ in rows]
        width = max(len(tokens) for _, tokens, _ in rows)
        read = iter(
            self.read(
                [placed(places, len(begin)) for _, _, places in rows],
                decoder_input_ids=self.tensor([[*t, *[self._start] * (width - len(t))] for _, t, _ in rows]),
                encoder_outputs=BaseModelOutput(last_hidden_state=seen.last_hidden_state[of]),
                attention_mask=mask[of],
            )
        )
        return [trie.log_probs(torch.cat([next(read) for _ in trie.rows])) for trie in tries]

    def logits(self, columns: list[int], **inputs: Any) -> torch.Tensor:
        """Compute all columns: the decoder's few are cheap, and these models take no `logits_to_keep`."""
        logits: torch.Tensor = self.model(**inputs, use_cache=False).logits
        return logits[:, columns]

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[list[int]], max_new_tokens: int, held: PermutationProcessor | None = None
    ) -> list[list[int]]:
        if held and self.labels.lead:
            raise InputError("readout structured: not for this model's tokenizer; give readout=first_token")
        width = max(map(len, prompts))
        batch = self.tensor([[*row, *[self._pad] * (width - len(row))] for row in prompts])
        mask = self.tensor([[1] * len(row) + [0] * (width - len(row)) for row in prompts])
        model: Any = self.model  # `generate` is annotated for another class
        processors = LogitsProcessorList([held] if held else [])
        output = model.generate(
            batch,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=processors,
            decoder_start_token_id=self._start,
        )
        answers: list[list[int]] = output[:, 1:].tolist()
        return answers

    @property
    def _start(self) -> int:
        configured: Any = self.model.config
        start = configured.decoder_start_token_id
        return int(self._pad if start is None else start)
