"""Fine-tuning from a data set to an adapter, as RPP's Alpaca was made: LoRA on instructions to rank, or to rate."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from promptailor.app.backends.finetune.card import model_card
from promptailor.app.backends.finetune.encoding import ExampleEncoder
from promptailor.app.backends.finetune.examples import Examples, RankingExamples
from promptailor.app.backends.finetune.folder import FinetuneFolder, FinetuneManifest, FinetuneSettings
from promptailor.app.backends.finetune.rating_examples import RatingExamples
from promptailor.app.backends.finetune.training import adapter_parameters, train
from promptailor.app.backends.finetune.validation import Check, RankingCheck, RatingCheck, validate
from promptailor.app.backends.local.encoder import ChatEncoder
from promptailor.app.backends.local.engine import Engine
from promptailor.app.backends.local.loading import load_causal_lm, model_fingerprint
from promptailor.app.commit import current_commit
from promptailor.evals.datasets import Dataset
from promptailor.prompts.errors import InputError, SpecError
from promptailor.prompts.patterns import Catalogue, Task

DType = Literal["auto", "float32", "bfloat16"]

_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """Task, lengths and rates."""

    task: Task = "ranking"
    steps: int = 500
    batch_size: int = 16
    micro_batch_size: int = 4
    """Examples per forward pass: what memory bounds. Gradients are those of the whole batch."""
    learning_rate: float = 2e-4
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises; it then falls to zero along a cosine."""
    rank: int = 16
    """Of the adapter's matrices; their scale, `alpha`, is twice as much, as is usual."""
    dropout: float = 0.05
    max_length: int = 1024
    """Tokens of prompt and answer, at most the model's context; a prompt that would pass it shows less history."""
    dtype: DType = "auto"
    """Of the base model's weights: bfloat16 on a GPU, float32 on a CPU; the adapter's are always float32."""
    device: str = "auto"
    seed: int = 0


def finetune(
    dataset: Dataset,
    catalogue: Catalogue,
    base: str,
    out_dir: Path,
    *,
    config: FinetuneConfig | None = None,
    resume: bool = False,
) -> FinetuneManifest:
    """Fine-tune an adapter on a data set's training sequences and measure it on validation users.

    Args:
        dataset: whose `training_sequences()` the examples are drawn from.
        catalogue: the sentences that prompts are made of, for the task that `config` names.
        base: folder or hub id of the model to adapt.
        out_dir: becomes a peft adapter folder with a manifest and a card.
        config: task, lengths and rates.
        resume: go on with the run in `out_dir`; a finished one is returned as it is.

    Raises:
        SpecError: there is no such base model or device, or the model is none that chats.
        DataError: the data set has too few users or items, or no ratings for a model that is to rate.
        InputError: `out_dir` holds another run, or an option makes no sense.
        CheckpointError: the run to go on with is damaged.
    """
    config = config or FinetuneConfig()
    examples: Examples
    check: Check
    if config.task == "rating":
        examples, check = RatingExamples(dataset, catalogue), RatingCheck(dataset, catalogue, config.seed)
    else:
        examples, check = RankingExamples(dataset, catalogue), RankingCheck(dataset, catalogue, config.seed)
    engine = load_base(base, config)
    settings = FinetuneSettings(
        task=config.task,
        base=base,
        base_fingerprint=model_fingerprint(base),
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        catalogue_digest=catalogue.digest,
        steps=config.steps,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        learning_rate=config.learning_rate,
        warmup=config.warmup,
        rank=config.rank,
        alpha=2 * config.rank,
        dropout=config.dropout,
        max_length=min(config.max_length, engine.context or config.max_length),
        dtype=str(engine.model.dtype).removeprefix("torch."),
        seed=config.seed,
    )
    folder = FinetuneFolder.open(out_dir, settings, resume=resume)
    if finished := folder.manifest():
        return finished
    with torch.random.fork_rng([engine.model.device] if engine.model.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        adapted = add_adapter(engine, settings)
        losses = train(adapted, examples, example_encoder(engine), folder, settings)
    manifest = FinetuneManifest(
        settings=settings,
        n_users=len(examples.user_ids),
        n_parameters=sum(parameter.numel() for parameter in adapter_parameters(adapted).values()),
        losses=losses,
        validation=validate(adapted, engine, check, seed=config.seed),
        versions={name: version(name) for name in _PACKAGES},
        commit=current_commit(),
    )
    adapted.save_pretrained(str(out_dir), save_embedding_layers=False)
    folder.finish(manifest, model_card(manifest))
    return manifest


def load_base(base: str, config: FinetuneConfig) -> Engine:
    """Load the model to adapt; one that is not there or does not chat is a `SpecError`."""
    try:
        dtype = None if config.dtype == "auto" else config.dtype
        return Engine(*load_causal_lm(base, dtype=dtype, device=config.device))
    except InputError as error:
        raise SpecError(f"--base {base}: {error}") from None


def add_adapter(engine: Engine, settings: FinetuneSettings) -> PeftModel:
    """Put an untrained adapter, drawn with torch's random numbers, on the linear layers of an engine's model."""
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(engine.model, lora)
    if not isinstance(adapted, PeftModel):
        raise TypeError(f"peft made a {type(adapted).__name__}")
    return adapted


def example_encoder(engine: Engine) -> ExampleEncoder:
    """Return the encoder of examples whose answers end as the engine's model should end them."""
    assert isinstance(engine.encoder, ChatEncoder), "only encoder-decoder models have another, and none is loaded here"
    end = engine.model.generation_config.eos_token_id[0]
    return ExampleEncoder(engine.encoder, end)
