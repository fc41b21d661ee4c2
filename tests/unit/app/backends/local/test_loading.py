"""Names become models: what is refused in one line, LoRA adapters, fingerprints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptailor.app.settings import Settings
from promptailor.prompts.assemble import AssembledPrompt
from promptailor.prompts.errors import SpecError

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

import peft
import torch
import transformers

from promptailor.app.backends import resolve_model
from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.local.engine import Engine

TinyLlm = Callable[..., Path]
FilmPrompt = Callable[..., AssembledPrompt]


def load(spec: str) -> LocalChat:
    chat = resolve_model(f"transformers:{spec}", Settings())
    assert isinstance(chat, LocalChat)
    return chat


@pytest.fixture
def copied(tiny_llm: TinyLlm, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_llm("llama"), tmp_path / "copied")


def write_adapter(base: Path, folder: Path, seed: int = 0) -> Any:
    """Save a random adapter, and return the model that has it."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(str(folder))
    return adapted


def check_refused(spec: str, match: str) -> None:
    with pytest.raises(SpecError, match=match) as raised:
        load(spec)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("--model transformers:")


def test_options_reach_the_model(tiny_llm: TinyLlm) -> None:
    options = "readout=structured&dtype=bfloat16&device=cpu&max_batch_size=8&max_new_tokens=20&threads=1"
    chat = load(f"{tiny_llm('llama')}?{options}")
    assert (chat.readout, chat.max_batch_size, chat.max_new_tokens, chat.threads) == ("structured", 8, 20, 1)
    assert chat.engine.model.dtype == torch.bfloat16
    assert load(f"{tiny_llm('llama')}?device=cpu").engine.model.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("readout=best", "readout is text or structured or first_token"),
        ("dtype=int8", "dtype is float32 or bfloat16 or float16"),
        ("device=tpu", "give auto, cpu, cuda, cuda:N or mps"),
        ("device=cuda:x", "give auto, cpu, cuda, cuda:N or mps"),
        ("device=cuda:99", r"torch sees \d cuda device\(s\) here; give device=cpu or auto"),
        ("temperature=1", "unknown option 'temperature'"),
        ("adapter=/nowhere", "no adapter_model.safetensors in it"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(tiny_llm: TinyLlm, options: str, match: str) -> None:
    check_refused(f"{tiny_llm('llama')}?{options}", match)


def test_what_is_no_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_refused(str(tmp_path), "name a folder with config.json, tokenizer and")
    check_refused(str(tmp_path / "nothing"), "there is no folder")
    check_refused("nobody/nothing", "or a hub id that can be downloaded")


def test_a_hub_id_that_was_downloaded_before_is_the_model_of_its_folder(
    tiny_llm: TinyLlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached, commit = tmp_path / "models--tiny--rank", 40 * "a"
    shutil.copytree(tiny_llm("llama"), cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    hub, folder = load("tiny/rank?device=cpu"), load(f"{tiny_llm('llama')}?device=cpu")
    assert hub.fingerprint == folder.fingerprint
    weights = folder.engine.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in hub.engine.model.state_dict().items())


def test_a_folder_without_a_chat_template_is_refused(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    check_refused(str(copied), "no chat template; name an instruction-tuned model")


def test_weights_that_would_be_unpickled_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")
    check_refused(str(copied), r"safetensors")


def test_damaged_weights_are_refused(copied: Path) -> None:
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    check_refused(str(copied), r"\*\.safetensors of a causal language model")


def test_weights_that_lack_a_layer_are_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    check_refused(str(copied), r"the weights lack model\.layers\.2")


def test_an_adapter_changes_the_answers_as_peft_says(
    tiny_llm: TinyLlm, tmp_path: Path, film_prompt: FilmPrompt
) -> None:
    base, prompt = tiny_llm("llama"), film_prompt("u")
    adapted = write_adapter(base, tmp_path / "adapter")
    plain, loaded = load(f"{base}?device=cpu"), load(f"{base}?device=cpu&adapter={tmp_path / 'adapter'}")
    scores = loaded.engine.rank_batch([prompt.messages], [prompt.labels])[0]
    unmerged = Engine(adapted, plain.engine.tokenizer).rank_batch([prompt.messages], [prompt.labels])[0]
    assert list(scores.log_probs.values()) == pytest.approx(list(unmerged.log_probs.values()), abs=2e-4)
    assert scores != plain.engine.rank_batch([prompt.messages], [prompt.labels])[0]


def test_an_adapter_reloads_bit_for_bit(tiny_llm: TinyLlm, tmp_path: Path) -> None:
    base = tiny_llm("llama")
    merged = write_adapter(base, tmp_path / "adapter").merge_and_unload().state_dict()
    for _ in range(2):
        loaded = load(f"{base}?device=cpu&adapter={tmp_path / 'adapter'}").engine.model.state_dict()
        assert loaded.keys() == merged.keys()
        assert all(torch.equal(loaded[name], merged[name]) for name in merged)


def test_an_adapter_alone_is_told_to_stand_beside_its_base(tiny_llm: TinyLlm, tmp_path: Path) -> None:
    write_adapter(tiny_llm("llama"), tmp_path / "adapter")
    check_refused(str(tmp_path / "adapter"), r"is an adapter; name its base model.*\?adapter=FOLDER")


@pytest.mark.parametrize(("kind", "n_layers"), [("llama", 1), ("llama", 3), ("gpt2", 2), ("qwen2", 2)])
def test_an_adapter_for_another_base_is_one_line(tiny_llm: TinyLlm, tmp_path: Path, kind: str, n_layers: int) -> None:
    write_adapter(tiny_llm("llama"), tmp_path / "adapter")
    other = tiny_llm(kind, n_layers=n_layers)
    check_refused(f"{other}?device=cpu&adapter={tmp_path / 'adapter'}", "was it trained on another model than")


def test_the_fingerprint_is_of_all_that_answers_depend_on_and_of_no_name(
    tiny_llm: TinyLlm, copied: Path, tmp_path: Path
) -> None:
    base = tiny_llm("llama")
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_adapter(base, tmp_path / name, seed)
    plain = load(f"{base}?device=cpu").fingerprint
    assert len(plain) == 16
    assert load(f"{copied}?device=cpu").fingerprint == plain
    one, same, other = (load(f"{base}?device=cpu&adapter={tmp_path / n}").fingerprint for n in ("one", "same", "other"))
    assert len({plain, one, other}) == 3
    assert one == same
    (copied / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert load(f"{copied}?device=cpu").fingerprint != plain
