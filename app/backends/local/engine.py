"""The engine: batched inference of any causal language model, as plain functions of prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from promptailor.app.backends.local.encoder import ChatEncoder, PlainEncoder
from promptailor.app.backends.local.loading import load_causal_lm
from promptailor.app.backends.local.permutation import PermutationProcessor, PermutationWalk
from promptailor.app.backends.local.trie import LabelTrie, Places
from promptailor.app.backends.ranking_chat import Readout
from promptailor.prompts.errors import InputError, SpecError
from promptailor.prompts.llm import Message

Prompt = Sequence[Message]
Asked = TypeVar("Asked")
Given = TypeVar("Given")

MAX_NEW_TOKENS = 256
_AT_ONCE = 64
"""Prompts per batch."""
_SCORED_AT_ONCE_ON_CPU = 16
"""Prompts per forward pass: enough to keep a core busy, and few enough that sorting by length saves padding."""
_DECIMALS = 4
"""Log-probabilities are rounded, so that a batch's shape, which moves them by 1e-6 in float32, cannot swap two
candidates; in half precision it moves them by up to 1e-2."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """What a forward pass says about a prompt's candidates."""

    log_probs: dict[str, float]
    """Log-probability of each label given that the answer is one, in nats, rounded to 1e-4; in label order."""

    @classmethod
    def of(cls, log_probs: Mapping[str, float]) -> LabelScores:
        """Round log-probabilities in label order."""
        return cls({label: round(value, _DECIMALS) for label, value in log_probs.items()})

    @property
    def ranking(self) -> tuple[str, ...]:
        """Labels, best first; ties in label order."""
        return tuple(sorted(self.log_probs, key=lambda label: -self.log_probs[label]))


@dataclass(frozen=True, slots=True)
class Ordered:
    """An answer that was held to a permutation of the labels."""

    ranking: tuple[str, ...]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class _Row:
    tokens: list[int]
    places: Places
    """Positions whose next token is read, and the tokens of interest there."""


class Engine:
    """A loaded model with its tokenizer.

    What is said of a prompt does not depend on what else is in the batch: prompts are padded on the right for ranking,
    where causal attention never sees it, and masked on the left for generation.

    `model` and `tokenizer` are ordinary objects of `transformers`. For a search by gradients, `encode` gives a prompt's
    tokens, `embed` their embeddings, and `label_log_probs` what backpropagates to them.
    """

    causal: ClassVar[bool] = True
    """Whether no token depends on a later one."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model over: it decodes greedily from now on, whatever its folder advises for sampling.

        Raises:
            InputError: the tokenizer has no chat template, no end token or no numbers.
        """
        self.model, self.tokenizer = model.train(False).requires_grad_(False), tokenizer
        self.encoder: ChatEncoder | PlainEncoder = self.make_encoder()
        self.labels = self.encoder.labels
        self.context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        """Tokens that prompt and answer can have; None where the architecture sets no bound."""
        self._ends = _end_tokens(model, tokenizer)
        self._pad = self._ends[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=self._ends, pad_token_id=self._pad
        )
        self.scored_at_once = _SCORED_AT_ONCE_ON_CPU if model.device.type == "cpu" else _AT_ONCE
        self.trie = lru_cache(maxsize=256)(self._make_trie)

    def make_encoder(self) -> ChatEncoder | PlainEncoder:
        """Return what turns messages into tokens."""
        return ChatEncoder(self.tokenizer)

    @classmethod
    def from_folder(cls, path: Path) -> Engine:
        """Load a folder in float32 on the CPU; one that holds no such model is a `SpecError`."""
        try:
            return cls(*load_causal_lm(str(path)))
        except InputError as error:
            raise SpecError(f"{path}: {error}") from None

    def encode(self, messages: Prompt, *, labels: Sequence[str] = (), readout: Readout = "text") -> list[int]:
        """Encode a prompt, and see that its answer will fit.

        Args:
            messages: the conversation.
            labels: of the candidates, where they are to be ranked.
            readout: how.

        Raises:
            InputError: prompt and answer are longer than the model's context, or a label is not one of its numbers.
        """
        self.labels.check(labels)
        tokens = self.encoder.encode(messages)
        room = {"text": 1, "structured": self.labels.longest(labels), "first_token": self._depth(labels)}[readout]
        if self.context and len(tokens) + room > self.context:
            raise InputError(
                f"prompt of {len(tokens)} tokens: with {room} for the answer it is longer than the model's context of "
                f"{self.context}; show less history or fewer candidates, or take another model"
            )
        return tokens

    def rank_batch(self, prompts: Sequence[Prompt], labels: Sequence[Sequence[str]]) -> list[LabelScores]:
        """Score the labels of each prompt as the beginning of its answer, one forward pass per chunk of prompts.

        Raises:
            InputError: a label is not one of the model's numbers, or a prompt is too long.
        """
        pairs = zip(prompts, labels, strict=True)
        return self.rank_tokens([self.encode(p, labels=of, readout="first_token") for p, of in pairs], labels)

    def generate_texts(self, prompts: Sequence[Prompt], max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
        """Answer each prompt by greedy decoding."""
        answers = self.generate_tokens([self.encode(prompt) for prompt in prompts], max_new_tokens)
        return [self.decode(answer) for answer in answers]

    def decode(self, answer: Sequence[int]) -> str:
        """Decode an answer without its end."""
        return self.encoder.decode(answer[:-1] if answer and answer[-1] in self._ends else answer)

    def rank_tokens(self, prompts: Sequence[list[int]], labels: Sequence[Sequence[str]]) -> list[LabelScores]:
        """Do what `rank_batch` does for encoded prompts."""
        tries = [self.trie(tuple(of_prompt)) for of_prompt in labels]
        rows = [row for prompt, trie in zip(prompts, tries, strict=True) for row in self._rows(prompt, trie)]
        read = iter(by_length(rows, [len(row.tokens) for row in rows], self.scored_at_once, self._read_rows))
        scores = []
        for trie, of_prompt in zip(tries, labels, strict=True):
            log_probs = trie.log_probs(torch.cat([next(read) for _ in trie.rows])).tolist()
            if any(map(math.isnan, log_probs)):
                raise InputError("the model's log-probabilities are not numbers; give another dtype, such as bfloat16")
            scores.append(LabelScores.of(dict(zip(of_prompt, log_probs, strict=True))))
        return scores

    def order_tokens(self, prompts: Sequence[list[int]], labels: Sequence[Sequence[str]]) -> list[Ordered]:
        """Answer encoded prompts by greedy decoding held to a permutation of the labels."""
        asked = list(zip(prompts, labels, strict=True))
        return by_length(asked, [len(prompt) for prompt in prompts], _AT_ONCE, self._order)

    def generate_tokens(self, prompts: Sequence[list[int]], max_new_tokens: int = MAX_NEW_TOKENS) -> list[list[int]]:
        """Answer encoded prompts by greedy decoding, up to and including the end token."""
        lengths = [len(prompt) for prompt in prompts]
        return by_length(prompts, lengths, _AT_ONCE, lambda chunk: self._write(chunk, max_new_tokens))

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the input embeddings of tokens, one row each, ready to receive a gradient."""
        return self._embeddings(tokens).detach().requires_grad_()

    def label_log_probs(self, embeddings: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        """Return the log-probability of each label, differentiable in the embeddings of the prompt's tokens."""
        return self.log_probs_of([embeddings], [labels])[0]

    def log_probs_of(self, embeddings: Sequence[torch.Tensor], labels: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        """Do what `label_log_probs` does for many prompts, in one forward pass."""
        rows, places, tries = self.open_rows(embeddings, labels)
        read = iter(self.read(places, inputs_embeds=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)))
        return [trie.log_probs(torch.cat([next(read) for _ in trie.rows])) for trie in tries]

    def open_rows(
        self, embeddings: Sequence[torch.Tensor], labels: Sequence[Sequence[str]]
    ) -> tuple[list[torch.Tensor], list[Places], list[LabelTrie]]:
        """Return the rows that a forward pass over embedded prompts, or over their ends, takes, and where to read them.

        A row has the shape (tokens, dim); its places are counted from its own beginning.
        """
        tries = [self.trie(tuple(of_prompt)) for of_prompt in labels]
        rows, places = [], []
        for prompt, trie in zip(embeddings, tries, strict=True):
            kept = prompt[: len(prompt) - self.labels.n_merged]
            for tail, at in trie.rows:
                rows.append(torch.cat([kept, self._embeddings([*self.labels.lead, *tail])]))
                places.append(placed(at, len(kept) + len(self.labels.lead)))
        return rows, places, tries

    def _make_trie(self, labels: tuple[str, ...]) -> LabelTrie:
        self.labels.check(labels)
        return LabelTrie([self.labels.first[label] for label in labels])

    def _depth(self, labels: Sequence[str]) -> int:
        return len(self.labels.lead) + max((len(self.labels.first[label]) for label in labels), default=1)

    def _rows(self, prompt: Sequence[int], trie: LabelTrie) -> list[_Row]:
        opened = self.labels.open(prompt)
        return [_Row([*opened, *tail], placed(places, len(opened))) for tail, places in trie.rows]

    @torch.inference_mode()
    def _read_rows(self, rows: Sequence[_Row]) -> list[torch.Tensor]:
        width = max(len(row.tokens) for row in rows)
        batch = [[*row.tokens, *[self._pad] * (width - len(row.tokens))] for row in rows]
        return self.read([row.places for row in rows], input_ids=self.tensor(batch))

    def read(self, rows: Sequence[Places], **inputs: Any) -> list[torch.Tensor]:
        """Return the log-probabilities of each row's tokens of interest; logits are computed where they are read."""
        column = {place: c for c, place in enumerate(sorted({place for row in rows for place, _ in row}))}
        spots = [(r, column[place], tokens) for r, row in enumerate(rows) for place, tokens in row]
        logits = self.logits(list(column), **inputs)
        log_probs = logits[[r for r, _, _ in spots], [c for _, c, _ in spots]].float().log_softmax(-1)
        lines = [line for line, (_, _, tokens) in enumerate(spots) for _ in tokens]
        read: Any = log_probs[lines, [token for _, _, tokens in spots for token in tokens]].cpu()
        return list(read.split([sum(len(tokens) for _, tokens in row) for row in rows]))

    def logits(self, columns: list[int], **inputs: Any) -> torch.Tensor:
        """Run the model, and return the logits behind the tokens in some columns."""
        logits: torch.Tensor = self.model(**inputs, use_cache=False, logits_to_keep=self.tensor(columns)).logits
        return logits

    def _order(self, asked: Sequence[tuple[list[int], Sequence[str]]]) -> list[Ordered]:
        walks = [PermutationWalk(self.labels, labels, self._ends[0]) for _, labels in asked]
        held = PermutationProcessor(walks)
        longest = max(self.labels.longest(labels) for _, labels in asked)
        answers = self._generate([self.labels.open(prompt) for prompt, _ in asked], longest, held)
        held.take([answer[-1] for answer in answers])
        return [Ordered(tuple(walk.ranking), walk.n_tokens) for walk in walks]

    def _write(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
        return [self._until_end(answer) for answer in self._generate(prompts, max_new_tokens)]

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[list[int]], max_new_tokens: int, held: PermutationProcessor | None = None
    ) -> list[list[int]]:
        width = max(map(len, prompts))
        batch = self.tensor([[*[self._pad] * (width - len(row)), *row] for row in prompts])
        mask = self.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        model: Any = self.model  # `generate` is annotated for another class
        processors = LogitsProcessorList([held] if held else [])
        output = model.generate(
            batch, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, logits_processor=processors
        )
        answers: list[list[int]] = output[:, width:].tolist()
        return answers

    def _until_end(self, answer: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(answer) if token in self._ends), len(answer))
        return answer[: end + 1]

    def _embeddings(self, tokens: Sequence[int]) -> torch.Tensor:
        embeddings: torch.Tensor = self.model.get_input_embeddings()(self.tensor(list(tokens)))
        return embeddings

    def tensor(self, values: list[Any]) -> torch.Tensor:
        """Return token ids as the model takes them."""
        return torch.tensor(values, dtype=torch.long, device=self.model.device)


def by_length(
    asked: Sequence[Asked], lengths: Sequence[int], at_once: int, run: Callable[[list[Asked]], Sequence[Given]]
) -> list[Given]:
    """Run chunks of similar length, and return the results in the given order."""
    order = sorted(range(len(asked)), key=lambda i: lengths[i])
    results: dict[int, Given] = {}
    for start in range(0, len(order), at_once):
        chunk = order[start : start + at_once]
        results.update(zip(chunk, run([asked[i] for i in chunk]), strict=True))
    return [results[i] for i in range(len(asked))]


def placed(places: Places, n_opened: int) -> Places:
    """Return places counted from the beginning of a row whose prompt has so many tokens."""
    return tuple((n_opened - 1 + depth, tokens) for depth, tokens in places)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's own first, then the model's."""
    configured: Any = model.generation_config.eos_token_id if model.generation_config else None
    named = [configured] if isinstance(configured, int) else configured or []
    ends = [end for end in (tokenizer.eos_token_id, *named) if end is not None]
    if not ends:
        raise InputError("the tokenizer has no end token; name an instruction-tuned model")
    return list(dict.fromkeys(ends))
