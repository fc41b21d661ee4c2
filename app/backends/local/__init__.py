"""Any causal or encoder-decoder language model in this process: `transformers:PATH_OR_ID`.

Importing this package imports torch; callers import it lazily.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.local.engine import MAX_NEW_TOKENS, Engine
from promptailor.app.backends.local.loading import (
    DType,
    is_encoder_decoder,
    load_language_model,
    model_fingerprint,
)
from promptailor.app.backends.local.seq2seq import Seq2SeqEngine
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings
from promptailor.prompts.errors import InputError, SpecError

__all__ = ["Engine", "LocalChat", "load"]


def load(spec: ModelSpec, settings: Settings) -> LocalChat:
    """Load a model by folder or hub id.

    Raises:
        SpecError: no such model, adapter or device, or an option's value makes no sense.
    """
    spec.refuse_unknown("readout", "dtype", "device", "adapter", "max_batch_size", "max_new_tokens", "threads")
    dtypes: tuple[DType, ...] = get_args(DType)
    adapter = Path(given).expanduser() if (given := spec.text("adapter")) else None
    fields = {
        "readout": spec.choice("readout", LocalChat.readouts, "first_token"),
        "max_batch_size": spec.whole("max_batch_size", 64),
        "max_new_tokens": spec.whole("max_new_tokens", MAX_NEW_TOKENS),
        "threads": spec.whole("threads", 1) if spec.text("threads") else None,
    }
    try:
        model, tokenizer = load_language_model(
            spec.model,
            dtype=spec.choice("dtype", dtypes, "float32") if spec.text("dtype") else None,
            device=spec.text("device") or "auto",
            adapter=adapter,
        )
        engine = (Seq2SeqEngine if is_encoder_decoder(model) else Engine)(model, tokenizer)
    except InputError as error:
        raise SpecError(f"--model {spec}: {error}") from None
    return LocalChat.of(engine, model_name=str(spec), fingerprint=model_fingerprint(spec.model, adapter), **fields)
