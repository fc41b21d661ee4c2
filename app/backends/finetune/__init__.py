"""LoRA fine-tuning of a causal language model on the ranking task; importing this package imports torch and peft."""

from __future__ import annotations

from promptailor.app.backends.finetune.folder import FinetuneManifest
from promptailor.app.backends.finetune.lora import FinetuneConfig, finetune

__all__ = ["FinetuneConfig", "FinetuneManifest", "finetune"]
