"""Prompts that differ in their last tokens only: what stands before is computed once and kept.

A search tries many triggers at the end of the same prompts, and causal attention never sees them from what stands
before. So one forward pass over the few last tokens tells what a pass over the whole prompt would, and a backward pass
through them gives their gradients.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from promptailor.app.backends.local.engine import Engine

KEPT_BYTES = 512 * 2**20
"""Of keys and values that are kept; those used longest ago go first."""
_AT_ONCE = 16
_TOLERANCE = 1e-3
"""In nats, between a pass with kept keys and values and one over the whole prompt, on the first prompts of a model."""

Tokens = tuple[int, ...]


class Prefixes:
    """Keys and values of the beginnings of prompts, for models whose attention is causal throughout."""

    def __init__(self, engine: Engine, max_bytes: int = KEPT_BYTES) -> None:
        self._engine, self._max_bytes = engine, max_bytes
        self._kept: OrderedDict[Tokens, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self._serves: bool | None = None

    def serve(self, prefix: Tokens, suffix: Tokens, labels: Sequence[str]) -> bool:
        """Whether the model's answers are the same with kept keys and values; found out once, on one prompt."""
        if self._serves is None:
            engine = self._engine
            try:
                kept = self.log_probs([prefix], [engine.embed(suffix)], [labels])[0]
            except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
                self._serves = False  # an architecture with a cache of another kind
            else:
                whole = engine.label_log_probs(engine.embed([*prefix, *suffix]), labels)
                self._serves = bool((kept - whole).abs().max() < _TOLERANCE)
        return self._serves

    def log_probs(
        self, prefixes: Sequence[Tokens], suffixes: Sequence[torch.Tensor], labels: Sequence[Sequence[str]]
    ) -> list[torch.Tensor]:
        """Return the log-probability of each label, differentiable in the embeddings of the prompts' last tokens."""
        engine = self._engine
        rows, places, tries = engine.open_rows(suffixes, labels)
        of_row = [prefix for prefix, trie in zip(prefixes, tries, strict=True) for _ in trie.rows]
        known = self._get(list(dict.fromkeys(prefixes)))
        width, n_suffix = max(map(len, of_row)), max(map(len, rows))
        stacked = torch.stack([pad(known[prefix], (0, 0, width - len(prefix), 0)) for prefix in of_row])
        cache = DynamicCache()
        for layer in range(stacked.shape[1] // 2):
            cache.update(stacked[:, 2 * layer], stacked[:, 2 * layer + 1], layer)
        device = stacked.device
        lengths = torch.tensor([len(prefix) for prefix in of_row], device=device)
        seen = torch.arange(width + n_suffix, device=device) >= width - lengths[:, None]
        read = iter(
            engine.read(
                places,
                inputs_embeds=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
                attention_mask=seen.long(),
                position_ids=lengths[:, None] + torch.arange(n_suffix, device=device),
                past_key_values=cache,
            )
        )
        return [trie.log_probs(torch.cat([next(read) for _ in trie.rows])) for trie in tries]

    def _get(self, prefixes: Sequence[Tokens]) -> dict[Tokens, torch.Tensor]:
        """Return keys and values in turn for every layer, shape (2 * layers, heads, tokens, dim) for each prefix."""
        found = {prefix: self._kept[prefix] for prefix in prefixes if prefix in self._kept}
        missing = sorted((prefix for prefix in prefixes if prefix not in found), key=len)
        for start in range(0, len(missing), _AT_ONCE):
            found |= self._compute(missing[start : start + _AT_ONCE])
        for prefix in prefixes:
            self._keep(prefix, found[prefix])
        return found

    @torch.no_grad()
    def _compute(self, prefixes: Sequence[Tokens]) -> dict[Tokens, torch.Tensor]:
        engine, width = self._engine, max(map(len, prefixes))
        batch = torch.tensor([[*p, *[p[-1]] * (width - len(p))] for p in prefixes], device=engine.model.device)
        cache: Any = engine.model(input_ids=batch, use_cache=True, logits_to_keep=1).past_key_values
        layers = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        stacked = torch.stack(layers, dim=1)
        if stacked.shape[3] != width:
            raise ValueError("the model keeps less than the whole prefix")
        return {prefix: stacked[i, :, :, : len(prefix)].clone() for i, prefix in enumerate(prefixes)}

    def _keep(self, prefix: Tokens, computed: torch.Tensor) -> None:
        if prefix not in self._kept:
            self._bytes += computed.nbytes
        self._kept[prefix] = computed
        self._kept.move_to_end(prefix)
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
