"""The untrained model: a small Llama whose embeddings and last layer start from what is known about the task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.embedded.tokenizer import PromptEncoder
from promptailor.prompts.domain import Item

_EMBEDDING_STD = 0.1
_OWN_SHARE = 0.5
"""Of a token's vector that is its own, where several tokens say the same and start from one vector."""
_LOOKUP_SHARPNESS = (0.3, 0.15)
_READING_SHARPNESS = 0.5
_SUPPRESSION = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The sizes of the Llama."""

    hidden_size: int = 192
    n_layers: int = 4
    n_heads: int = 8
    head_dim: int = 32
    intermediate_size: int = 512

    @property
    def naming_layer(self) -> int:
        """The layer whose output names titles; the last one looks up their numbers."""
        return self.n_layers - 1


def build_model(
    encoder: PromptEncoder,
    items: Sequence[Item],
    synonyms: Sequence[Sequence[int]],
    teachers: Teachers,
    size: ModelSize,
    seed: int,
) -> LlamaForCausalLM:
    """Make the untrained model.

    Args:
        encoder: the tokenizer's encoder.
        items: the catalogue; titles start as the teachers' item factors.
        synonyms: groups of token ids that mean the same and start alike.
        teachers: whose `factors` are indexed like `items`.
        size: of the Llama.
        seed: of the initial weights.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=encoder.vocab_size,
            hidden_size=size.hidden_size,
            num_hidden_layers=size.n_layers,
            num_attention_heads=size.n_heads,
            num_key_value_heads=size.n_heads,
            head_dim=size.head_dim,
            intermediate_size=size.intermediate_size,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=encoder.end_id,
            pad_token_id=encoder.pad_id,
        )
    )
    rng = np.random.default_rng(seed)
    rotation = _rotation(size.hidden_size, rng)
    # Numbers and titles start orthogonal, so that neither drowns the other where both stand in one vector.
    axes, rest = np.split(rotation, [len(encoder.number_forms)])
    with torch.no_grad():
        weight = model.lm_head.weight
        for group in synonyms:
            _start_alike(weight, group, rng.normal(0.0, _EMBEDDING_STD, size.hidden_size))
        for item, row in zip(items, _title_embeddings(teachers, rest), strict=True):
            weight[encoder.title_id(item.title)] = torch.from_numpy(row).to(weight)
        for forms, axis in zip(encoder.number_forms, axes, strict=True):
            _start_alike(weight, forms, axis * _EMBEDDING_STD * math.sqrt(size.hidden_size))
        _last_layer(model, torch.from_numpy(axes).to(weight))
    return model


def _last_layer(model: LlamaForCausalLM, axes: torch.Tensor) -> None:
    """Start the last layer as a lookup that does not repeat itself.

    * Most heads attend to what their input resembles and copy what stands there; soft attention, softer in some heads
      than in others, tells good candidates from bad ones far down the list.
    * One head attends sharply to where its input's number stands, so that a title can be copied behind its number.
    * The last heads, as many as hold the `axes` of the numbers, attend to everything alike and take away each number as
      often as they meet it: a candidate's number stands in the prompt once, and again in the answer when it was given.
    """
    attention: Any = model.model.layers[-1].self_attn
    size, n_heads = attention.head_dim, attention.config.num_attention_heads
    n_lookup = n_heads - 1 - math.ceil(len(axes) / size)
    if n_lookup < 1:
        raise ValueError(f"{n_heads} heads of {size}: too few to look up, read and suppress {len(axes)} numbers")
    queries, keys, values = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
    outputs = attention.o_proj.weight
    for matrix in (keys, values):
        matrix.normal_(std=matrix.shape[1] ** -0.5)
    outputs.copy_(values.T)
    sharpness = torch.linspace(*_LOOKUP_SHARPNESS, n_lookup).repeat_interleave(size)
    queries[: n_lookup * size] = sharpness[:, None] * keys[: n_lookup * size]
    reading = slice(n_lookup * size, (n_lookup + 1) * size)
    keys[reading] = torch.randn(size, len(axes)).to(axes) @ axes / math.sqrt(size)
    queries[reading] = _READING_SHARPNESS * keys[reading]
    values[reading] -= values[reading] @ axes.T @ axes
    outputs[:, reading] = values[reading].T
    suppressing = slice(reading.stop, reading.stop + len(axes))
    queries[reading.stop :], values[reading.stop :], outputs[:, reading.stop :] = 0.0, 0.0, 0.0
    values[suppressing], outputs[:, suppressing] = axes, -_SUPPRESSION * axes.T


def _title_embeddings(teachers: Teachers, axes: np.ndarray) -> np.ndarray:
    """Return the teachers' item factors as embeddings along the given random axes, which spread them over all heads."""
    factors = teachers.factors(len(axes))
    rotated = factors @ axes[: factors.shape[1]]
    return np.asarray(rotated * (_EMBEDDING_STD / rotated.std()))


def _start_alike(weight: torch.Tensor, tokens: Sequence[int], shared: np.ndarray) -> None:
    weight[list(tokens)] = torch.from_numpy(shared).to(weight) + _OWN_SHARE * weight[list(tokens)]


def _rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((size, size)))[0].T
