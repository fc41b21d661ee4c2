"""The yardstick of the in-process back end: `generate` as a script would call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from promptailor.app.backends.local.engine import Engine
from promptailor.prompts.llm import Message


def bare_generate(engine: Engine, prompts: Sequence[Sequence[Message]], max_new_tokens: int) -> None:
    """Call `generate` on one padded batch, with nothing around it."""
    rows = [engine.encode(prompt) for prompt in prompts]
    model: Any = engine.model  # `generate` is annotated for another class
    width, pad = max(map(len, rows)), model.generation_config.pad_token_id
    batch = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    with torch.inference_mode():
        model.generate(batch, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)
