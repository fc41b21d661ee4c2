"""Small untrained models that differ in architecture, tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from promptailor.prompts.patterns import SENTENCE_PATTERNS, load_catalogue

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}\n### Answer: {% endif %}{% endfor %}"
)

KINDS = ("llama", "qwen2", "mistral", "gpt2")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of model in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the folder of a model, once each.

    `llama` writes a number as one token. `qwen2` writes digits. `mistral` writes digits, with a blank of its own before
    a text's first word, and its template refuses system messages. `t5` has an encoder and a decoder, and no template;
    numbers are one token. `gpt2` has `llama`'s tokenizer and a template in
    plain text that drops system messages and ends in a blank, which is one token with the number behind it.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    @cache
    def folder(kind: str = "llama", *, n_layers: int = 2, context: int = 2048) -> Path:
        path = tmp_path_factory.mktemp(kind)
        words = _tokenizer(kind)
        words.save_pretrained(path)
        sizes = {
            "vocab_size": len(words),
            "hidden_size": 32,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 2,
            "max_position_embeddings": context,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": words.eos_token_id,
        }
        torch.manual_seed(0)
        if kind == "gpt2":
            model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        elif kind == "t5":
            config = transformers.T5Config(
                vocab_size=len(words), d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2,
                decoder_start_token_id=words.pad_token_id, pad_token_id=words.pad_token_id,
                eos_token_id=words.eos_token_id, initializer_factor=2.0,
            )  # fmt: skip
            model = transformers.T5ForConditionalGeneration(config)
        elif kind == "qwen2":
            model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(num_key_value_heads=1, **sizes))
        else:
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=2, **sizes))
        model.save_pretrained(path)
        return path

    return folder


def _tokenizer(kind: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    digits = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "t5":
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        core.decoder = decoders.Metaspace()
        names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
        special = ["<pad>", "</s>", "<unk>"]
        trained = trainers.BpeTrainer(special_tokens=special, vocab_size=700)
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    elif kind == "mistral":
        core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = digits
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        special = [*names.values(), "[INST]", "[/INST]"]
        trained = trainers.BpeTrainer(special_tokens=[*special, *(f"<0x{b:02X}>" for b in range(256))], vocab_size=700)
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.Sequence([digits, to_bytes] if kind == "qwen2" else [to_bytes])
        core.decoder = decoders.ByteLevel()
        names = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
        special = [*names.values(), "<|im_start|>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trained = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, vocab_size=700)
    core.train_from_iterator(_texts(), trained)
    words = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, clean_up_tokenization_spaces=False, extra_special_tokens=special[2:], **names
    )
    words.chat_template = {"mistral": MISTRAL, "gpt2": PLAIN, "t5": None}.get(kind, CHATML)
    return words


def _texts() -> list[str]:
    catalogue = load_catalogue()
    numbers = [str(n) for n in range(1, 51)]
    lists = ["\n".join(numbers), " ".join(numbers), "".join(f"{n}. - A film\n" for n in numbers)]
    return [*(s.text for p in SENTENCE_PATTERNS for s in catalogue.sentences(p)), *(20 * lists)]
