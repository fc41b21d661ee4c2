"""Fine-tuning a small Llama with random weights: the mechanics, from examples to an adapter that reloads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptailor.evals.datasets import Dataset
from promptailor.evals.protocol import split_users
from promptailor.prompts.errors import CheckpointError, InputError, SpecError
from promptailor.prompts.llm import Message
from promptailor.prompts.patterns import SENTENCE_PATTERNS, load_catalogue

pytest.importorskip("peft")
pytest.importorskip("transformers")

import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from promptailor.app.backends.finetune import FinetuneConfig, FinetuneManifest, finetune, training
from promptailor.app.backends.finetune.examples import Example, RankingExamples
from promptailor.app.backends.finetune.folder import FinetuneFolder
from promptailor.app.backends.finetune.lora import add_adapter, example_encoder, load_base
from promptailor.app.backends.local.engine import Engine
from promptailor.app.backends.local.loading import load_causal_lm

CATALOGUE = load_catalogue()
CONFIG = FinetuneConfig(steps=6, batch_size=3, micro_batch_size=2, learning_rate=1e-2, rank=4, max_length=512)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE


@pytest.fixture(scope="session")
def base(film_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model whose byte-level BPE spells numbers in digits, as many do."""
    texts = [CATALOGUE.fill(sentence, "movies") for p in SENTENCE_PATTERNS for sentence in CATALOGUE.sentences(p)]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*texts, *(item.title for item in film_dataset.items.values())], trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def finetuned(base: Path, film_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "films"
    finetune(film_dataset, CATALOGUE, str(base), folder, config=CONFIG)
    return folder


def tuned(dataset: Dataset, base: Path, out: Path, *, resume: bool = False, **changes: Any) -> FinetuneManifest:
    config = dataclasses.replace(CONFIG, **changes)
    return finetune(dataset, CATALOGUE, str(base), out, config=config, resume=resume)


def with_template(base: Path, template: str | None, folder: Path) -> Path:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.chat_template = template
    LlamaForCausalLM.from_pretrained(base).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits_of(model: Any) -> Any:
    with torch.inference_mode():
        return model(torch.arange(40)[None]).logits


class Killed(RankingExamples):
    """Examples that end the process's work at the first draw of a step."""

    step = 5

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset, CATALOGUE)
        self.n_drawn = 0

    def draw(self, rng: np.random.Generator, max_history: int | None = None) -> Example:
        self.n_drawn += 1
        if self.n_drawn > self.step * CONFIG.batch_size:
            raise KeyboardInterrupt
        return super().draw(rng, max_history)


def test_the_folder_is_a_plain_adapter_with_manifest_and_card(finetuned: Path, base: Path) -> None:
    assert sorted(path.name for path in finetuned.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "settings.json",
    ]
    manifest = FinetuneManifest.model_validate_json((finetuned / "manifest.json").read_bytes())
    lora = json.loads((finetuned / "adapter_config.json").read_text())
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (4, 8, 0.05)
    assert {name.rpartition(".")[2] for name in lora["target_modules"]} == {
        f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down")
    }
    assert len(manifest.losses) == CONFIG.steps
    assert manifest.losses[-1] < manifest.losses[0]
    card = (finetuned / "README.md").read_text()
    assert str(base) in card
    assert f"{manifest.validation.after.mean:.3f}" in card


def test_only_validation_users_are_asked(finetuned: Path, film_dataset: Dataset) -> None:
    manifest = FinetuneManifest.model_validate_json((finetuned / "manifest.json").read_bytes())
    assert manifest.validation.user_ids == split_users(film_dataset).validation
    gain = manifest.validation.gain
    assert gain.mean == pytest.approx(manifest.validation.after.mean - manifest.validation.before.mean)
    assert gain.low <= gain.mean <= gain.high


def test_the_adapter_answers_bit_for_bit_as_before_it_was_saved(
    base: Path, film_dataset: Dataset, tmp_path: Path, finetuned: Path
) -> None:
    engine = load_base(str(base), CONFIG)
    settings = FinetuneManifest.model_validate_json((finetuned / "manifest.json").read_bytes()).settings
    untouched = logits_of(engine.model)
    adapted = add_adapter(engine, settings)
    folder = FinetuneFolder.open(tmp_path / "run", settings, resume=False)
    training.train(adapted, RankingExamples(film_dataset, CATALOGUE), example_encoder(engine), folder, settings)
    adapted.train(False)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    fresh = LlamaForCausalLM.from_pretrained(base)
    reloaded = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter"))
    assert torch.equal(logits_of(reloaded), logits_of(adapted))
    assert not torch.equal(logits_of(adapted), untouched)
    with adapted.disable_adapter():
        assert torch.equal(logits_of(adapted), untouched)


def test_the_local_back_end_ranks_with_the_adapter_as_was_measured(
    base: Path, finetuned: Path, film_dataset: Dataset
) -> None:
    prompt = [Message(role="user", content="Rank these:\n1. Film 3\n2. Film 4\n3. Film 5")]
    labels = ["1", "2", "3"]
    merged = Engine(*load_causal_lm(str(base), adapter=finetuned))
    beside = load_base(str(base), CONFIG)
    PeftModel.from_pretrained(beside.model, str(finetuned))
    (one,), (other,) = (engine.rank_batch([prompt], [labels]) for engine in (merged, beside))
    plain = load_base(str(base), CONFIG).rank_batch([prompt], [labels])[0]
    assert list(one.log_probs.values()) == pytest.approx(list(other.log_probs.values()), abs=2e-4)
    assert list(one.log_probs.values()) != pytest.approx(list(plain.log_probs.values()), abs=2e-4)


def test_a_killed_run_resumed_equals_the_unbroken_run(
    base: Path, film_dataset: Dataset, finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    settings = FinetuneManifest.model_validate_json((finetuned / "manifest.json").read_bytes()).settings
    engine = load_base(str(base), CONFIG)
    torch.manual_seed(settings.seed)
    folder = FinetuneFolder.open(tmp_path / "run", settings, resume=False)
    with pytest.raises(KeyboardInterrupt):
        training.train(add_adapter(engine, settings), Killed(film_dataset), example_encoder(engine), folder, settings)
    checkpoint = folder.checkpoint()
    assert checkpoint is not None
    assert len(checkpoint.losses) == 4
    torch.manual_seed(99)
    tuned(film_dataset, base, tmp_path / "run", resume=True)
    for name in ("adapter_model.safetensors", "adapter_config.json", "manifest.json", "README.md"):
        assert (tmp_path / "run" / name).read_bytes() == (finetuned / name).read_bytes()


def test_a_finished_run_is_returned_as_it_is_and_never_overwritten(
    base: Path, film_dataset: Dataset, finetuned: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finetuned.glob("adapter*")}
    assert tuned(film_dataset, base, finetuned, resume=True).losses
    with pytest.raises(InputError, match="already holds a run; pass --resume"):
        tuned(film_dataset, base, finetuned)
    with pytest.raises(InputError, match="rank was 4 and is 8; settings must match"):
        tuned(film_dataset, base, finetuned, resume=True, rank=8)
    assert before == {path: path.stat().st_mtime_ns for path in finetuned.glob("adapter*")}


def test_a_folder_of_something_else_is_left_alone(base: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no fine-tuning run"):
        tuned(film_dataset, base, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint_is_an_error_that_names_the_file(
    base: Path, film_dataset: Dataset, finetuned: Path, tmp_path: Path
) -> None:
    (tmp_path / "settings.json").write_bytes((finetuned / "settings.json").read_bytes())
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: damaged"):
        tuned(film_dataset, base, tmp_path, resume=True)


def test_a_model_learns_to_rate(base: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    # Everybody rates everything 2, which is easy to learn and easy to see.
    rated = dataclasses.replace(film_dataset, ratings={u: (2.0,) * len(s) for u, s in film_dataset.sequences.items()})
    config = dataclasses.replace(CONFIG, task="rating", steps=12, learning_rate=3e-2)
    catalogue = load_catalogue(task="rating")
    manifest = finetune(rated, catalogue, str(base), tmp_path / "run", config=config)
    assert manifest.validation.user_ids == split_users(film_dataset).validation
    assert manifest.validation.after.mean > max(0.9, manifest.validation.before.mean)
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "fine-tuned to predict ratings of `films`" in card
    assert f"1 - |error| / 4 {manifest.validation.before.mean:.3f}" in " ".join(card.split())
    with pytest.raises(InputError, match="task was 'rating' and is 'ranking'"):
        finetune(rated, CATALOGUE, str(base), tmp_path / "run", config=CONFIG, resume=True)


def test_the_callers_random_numbers_are_left_alone(base: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tuned(film_dataset, base, tmp_path / "run", steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_an_answer_continues_its_prompt_as_the_chat_template_writes_it(base: Path, film_dataset: Dataset) -> None:
    engine, examples = load_base(str(base), CONFIG), RankingExamples(film_dataset, CATALOGUE)
    encoder, rng = example_encoder(engine), np.random.default_rng(0)
    for _ in range(30):
        example = examples.draw(rng)
        encoded = encoder.encode(example.messages, example.answer)
        chat = [{"role": m.role, "content": m.content} for m in example.messages]
        chat.append({"role": "assistant", "content": example.answer})
        whole = str(engine.tokenizer.apply_chat_template(chat, tokenize=False))
        ids = engine.tokenizer.encode(whole, add_special_tokens=False)
        assert [*encoded.prompt, *encoded.answer] == ids[: encoded.n_tokens]
        assert engine.tokenizer.decode(encoded.answer) == example.answer + "<|im_end|>"
        assert encoded.prompt == engine.encode(example.messages)


def test_a_template_without_system_messages_gets_the_role_in_the_users(
    base: Path, film_dataset: Dataset, tmp_path: Path
) -> None:
    engine = load_base(str(with_template(base, NO_SYSTEM, tmp_path / "base")), CONFIG)
    messages = [Message(role="system", content="You are an expert."), Message(role="user", content="Rank.")]
    encoded = example_encoder(engine).encode(messages, "2\n1")
    assert engine.tokenizer.decode([*encoded.prompt, *encoded.answer]) == (
        "<|im_start|>user\nYou are an expert.\nRank.<|im_end|>\n<|im_start|>assistant\n2\n1<|im_end|>"
    )


def test_the_loss_is_on_the_answer_alone_and_padding_does_not_change_it(base: Path, film_dataset: Dataset) -> None:
    engine, examples = load_base(str(base), CONFIG), RankingExamples(film_dataset, CATALOGUE)
    encoder, rng = example_encoder(engine), np.random.default_rng(0)
    drawn = [examples.draw(rng) for _ in range(4)]
    encoded = [encoder.encode(example.messages, example.answer) for example in drawn]
    with torch.inference_mode():
        together = training.answer_losses(engine.model, encoded)
        for example, loss in zip(encoded, together.tolist(), strict=True):
            assert training.answer_losses(engine.model, [example]).item() == pytest.approx(loss, rel=1e-5)
            ids = torch.tensor([[*example.prompt, *example.answer]])
            labels = ids.clone()
            labels[:, : len(example.prompt)] = -100
            assert engine.model(ids, labels=labels).loss.item() == pytest.approx(loss, rel=1e-5)


def test_a_long_prompt_shows_less_history_or_gives_way_to_another(base: Path, film_dataset: Dataset) -> None:
    engine, examples = load_base(str(base), CONFIG), RankingExamples(film_dataset, CATALOGUE)
    encoder = example_encoder(engine)
    lengths = [training.fitting_example(examples, encoder, 4096, (0, n)).n_tokens for n in range(40)]
    limit = sorted(lengths)[20]
    shortened = [training.fitting_example(examples, encoder, limit, (0, n)).n_tokens for n in range(40)]
    assert max(shortened) <= limit < max(lengths)
    assert all(short == whole for short, whole in zip(shortened, lengths, strict=True) if whole <= limit)
    with pytest.raises(InputError, match="--max-length 20: too short for a prompt and its answer"):
        training.fitting_example(examples, encoder, 20, (0, 0))


def test_what_cannot_be_adapted_is_an_error_of_one_line(base: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    mute = with_template(base, None, tmp_path / "mute")
    for wrong, reason in (
        (tmp_path / "nowhere", "there is no folder .*name one, or a hub id"),
        (mute, "the tokenizer has no chat template"),
    ):
        with pytest.raises(SpecError, match=f"--base {wrong}: .*{reason}") as caught:
            tuned(film_dataset, wrong, tmp_path / "run")
        assert "\n" not in str(caught.value)
    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match="torch sees 0 cuda"):
            tuned(film_dataset, base, tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()
