"""A model's name becomes a model: a folder or a hub id, its dtype and device, and a LoRA adapter."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from promptailor.prompts.errors import SpecError

# peft asks `transformers` by a name that will go; nobody who runs this can do anything about it.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

DType = Literal["float32", "bfloat16", "float16"]

_ADAPTER = "adapter_model.safetensors"
_ANSWER_FILES = (
    "*.safetensors",
    "*.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "adapter_config.json",
)
"""What answers depend on, in a folder."""
_FAILURES = (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError)
"""What `transformers` and `peft` raise for files that are missing, damaged or of another kind."""


def load_causal_lm(
    name: str, *, dtype: DType | None = None, device: str = "cpu", adapter: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Do what `load_language_model` does; an encoder-decoder model is a `SpecError`."""
    model, tokenizer = load_language_model(name, dtype=dtype, device=device, adapter=adapter)
    if is_encoder_decoder(model):
        raise SpecError(f"{name} has an encoder and a decoder; name a causal language model here")
    return model, tokenizer


def load_language_model(
    name: str, *, dtype: DType | None = None, device: str = "cpu", adapter: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal or an encoder-decoder model with its tokenizer.

    Only safetensors are read, and no code that comes with a model is run.

    Args:
        name: a folder, or a hub id.
        dtype: of the weights; by default float32 on a CPU, bfloat16 on anything else.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        adapter: folder of a LoRA adapter, merged into the weights.

    Raises:
        SpecError: there is no such model, device or adapter, or they do not belong together.
    """
    where = _device(device)
    if name.startswith(("/", ".", "~")) and not Path(name).expanduser().is_dir():
        raise SpecError(f"there is no folder {name!r}; name one, or a hub id such as owner/name")
    name = str(Path(name).expanduser())
    if Path(name, "adapter_config.json").is_file():
        raise SpecError("this folder is an adapter; name its base model, and the folder as ?adapter=FOLDER")
    precision = getattr(torch, dtype) if dtype else torch.float32 if where.type == "cpu" else torch.bfloat16
    try:
        auto: Any = AutoModelForCausalLM
        if AutoConfig.from_pretrained(name).is_encoder_decoder:
            auto = AutoModelForSeq2SeqLM
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = auto.from_pretrained(name, dtype=precision, use_safetensors=True, output_loading_info=True)
    except _FAILURES as error:
        raise SpecError(
            f"{_reason(error)}; name a folder with config.json, tokenizer and *.safetensors of a "
            "causal language model, or a hub id that can be downloaded"
        ) from None
    if missing := sorted(info["missing_keys"]):
        raise SpecError(f"the weights lack {missing[0]}; name the folder of a causal language model")
    if adapter:
        model = _with_adapter(model, name, adapter)
    return model.to(where), tokenizer


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Whether an encoder reads the prompt and a decoder answers, as in T5."""
    configured: Any = model.config
    return bool(configured.is_encoder_decoder)


def fingerprint(*files: Path) -> str:
    """Digest files' contents."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:16]


def model_fingerprint(name: str, adapter: Path | None = None) -> str:
    """Digest the files that the answers of a model depend on, and of no name; a hub id must have been loaded before."""
    loaded: Any = cached_file(str(Path(name).expanduser()), "config.json")
    folders = [Path(loaded).parent, *([adapter] if adapter else [])]
    return fingerprint(*(file for folder in folders for file in _answer_files(folder)))


def _answer_files(folder: Path) -> Iterable[Path]:
    return sorted({file for pattern in _ANSWER_FILES for file in folder.glob(pattern)})


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (index.isdecimal() if ":" in name else True):
        raise SpecError(f"device {name!r}: give auto, cpu, cuda, cuda:N or mps")
    n_present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(index or 0) >= n_present:
        raise SpecError(f"device {name!r}: torch sees {n_present} {kind} device(s) here; give device=cpu or auto")
    return torch.device(name)


def _with_adapter(model: PreTrainedModel, name: str, folder: Path) -> PreTrainedModel:
    from peft import PeftModel, get_peft_model_state_dict  # noqa: PLC0415 - takes seconds, and few models need it

    path = folder / _ADAPTER
    if not path.is_file():
        raise SpecError(f"adapter {str(folder)!r}: there is no {_ADAPTER} in it; give the folder of a LoRA adapter")
    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
        with safe_open(path, framework="pt") as saved:
            fits = set(saved.keys()) == set(get_peft_model_state_dict(adapted))
    except _FAILURES as error:
        raise SpecError(f"adapter {str(folder)!r}: {_reason(error)}; {_OTHER_BASE.format(name=name)}") from None
    if not fits:
        raise SpecError(f"adapter {str(folder)!r}: its layers are not the model's; {_OTHER_BASE.format(name=name)}")
    merged: Any = adapted
    result: PreTrainedModel = merged.merge_and_unload()
    return result


_OTHER_BASE = "was it trained on another model than {name!r}?"


def _reason(error: BaseException) -> str:
    """Return the first sentence of what a library says over many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].rstrip(".:;")
