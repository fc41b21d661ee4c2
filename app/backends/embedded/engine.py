"""The engine: batched inference of a finished embedded-model folder, as plain functions of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from promptailor.app.backends.embedded.tokenizer import PromptEncoder
from promptailor.prompts.errors import InputError
from promptailor.prompts.llm import Message

Prompt = Sequence[Message]
T = TypeVar("T")

MAX_NEW_TOKENS = 256
_CHUNK = 16
"""Prompts per forward pass: enough to keep a core busy, and few enough that sorting by length saves padding."""
_DECIMALS = 4
"""Log-probabilities are rounded, so that a batch's shape, which moves them by 1e-6, cannot swap two candidates."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """What one forward pass says about a prompt's candidates."""

    log_probs: dict[str, float]
    """Log-probability of each label given that the next token is a label, in nats, rounded to 1e-4; in label order."""

    @property
    def ranking(self) -> tuple[str, ...]:
        """Labels, best first; ties in label order."""
        return tuple(sorted(self.log_probs, key=lambda label: -self.log_probs[label]))


class Engine:
    """A loaded model with its encoder.

    Scores and texts of a prompt do not depend on what else is in the batch: prompts are padded on the right for
    ranking, where causal attention never sees it, and masked on the left for generation.
    """

    def __init__(self, model: LlamaForCausalLM, encoder: PromptEncoder) -> None:
        model.train(False)
        self.model, self.encoder = model, encoder
        self._labels = {label: row for row, label in enumerate(encoder.label_ids)}
        self._label_rows = model.lm_head.weight[list(encoder.label_ids.values())].detach()

    @classmethod
    def from_folder(cls, path: Path) -> Engine:
        """Load a finished folder; weights are widened to fp32 whatever they are stored in."""
        model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
        return cls(model, PromptEncoder(PreTrainedTokenizerFast.from_pretrained(path)))

    def rank_batch(self, prompts: Sequence[Prompt], labels: Sequence[Sequence[str]]) -> list[LabelScores]:
        """Score the labels of each prompt by its first answer token, one forward pass per chunk of prompts.

        Raises:
            InputError: a label is not one of the model's numbers.
        """
        return self.rank_tokens([self.encoder.messages(prompt) for prompt in prompts], labels)

    def generate_texts(self, prompts: Sequence[Prompt], max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
        """Answer each prompt by greedy decoding."""
        answers = self.generate_tokens([self.encoder.messages(prompt) for prompt in prompts], max_new_tokens)
        return [self.encoder.decode(answer) for answer in answers]

    def check_labels(self, labels: Iterable[str]) -> None:
        """Raise an `InputError` for a label that is not one of the model's numbers."""
        if unknown := sorted(set(labels) - self._labels.keys()):
            last = len(self._labels)
            raise InputError(f"label {unknown[0]!r}: the embedded model ranks candidates numbered 1 to {last}")

    def rank_tokens(self, prompts: Sequence[list[int]], labels: Sequence[Sequence[str]]) -> list[LabelScores]:
        """Do what `rank_batch` does for encoded prompts."""
        self.check_labels({label for of_prompt in labels for label in of_prompt})
        logits = _by_length(prompts, self._label_logits)
        return [LabelScores(self._log_probs(row, of_prompt)) for row, of_prompt in zip(logits, labels, strict=True)]

    def generate_tokens(self, prompts: Sequence[list[int]], max_new_tokens: int = MAX_NEW_TOKENS) -> list[list[int]]:
        """Answer encoded prompts by greedy decoding, up to and including the end token."""
        return _by_length(prompts, lambda chunk: self._generate(chunk, max_new_tokens))

    @torch.inference_mode()
    def _label_logits(self, prompts: list[list[int]]) -> list[torch.Tensor]:
        width = max(map(len, prompts))
        batch = torch.tensor([[*row, *[self.encoder.pad_id] * (width - len(row))] for row in prompts])
        hidden = self.model.model(input_ids=batch, use_cache=False).last_hidden_state
        last = hidden[range(len(prompts)), [len(row) - 1 for row in prompts]]
        return list(F.linear(last, self._label_rows))

    def _log_probs(self, logits: torch.Tensor, labels: Sequence[str]) -> dict[str, float]:
        log_probs = torch.log_softmax(logits[[self._labels[label] for label in labels]].double(), dim=0).tolist()
        return {label: round(value, _DECIMALS) for label, value in zip(labels, log_probs, strict=True)}

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        width = max(map(len, prompts))
        batch = torch.tensor([[*[self.encoder.pad_id] * (width - len(row)), *row] for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        model: Any = self.model  # `generate` is annotated for another class
        output = model.generate(batch, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)
        return [self._until_end(row) for row in output[:, width:].tolist()]

    def _until_end(self, answer: list[int]) -> list[int]:
        end = self.encoder.end_id
        return answer[: answer.index(end) + 1] if end in answer else answer


def _by_length(prompts: Sequence[list[int]], run: Callable[[list[list[int]]], Sequence[T]]) -> list[T]:
    """Run chunks of prompts of similar length, and return the results in the prompts' own order."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: dict[int, T] = {}
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        results.update(zip(chunk, run([prompts[i] for i in chunk]), strict=True))
    return [results[i] for i in range(len(prompts))]
