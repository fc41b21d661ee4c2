"""Training: a small Llama learns the catalogue's titles first, then to follow the prompts of the pattern catalogue.

Stage one is plain next-title modelling of training histories. Stage two is instruction tuning on `Corpus` examples,
short lists first.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from transformers import AttentionInterface, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from promptailor.app.backends.embedded.card import model_card
from promptailor.app.backends.embedded.corpus import Corpus
from promptailor.app.backends.embedded.folder import LmManifest, digest, finish, write_weights
from promptailor.app.backends.embedded.losses import Losses
from promptailor.app.backends.embedded.model import ModelSize, build_model
from promptailor.app.backends.embedded.tasks import load_tasks
from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.embedded.tokenizer import PromptEncoder, build_tokenizer
from promptailor.app.backends.embedded.vocabulary import (
    data_vocabulary,
    prompt_phrases,
    prompt_words,
    sentence_variants,
)
from promptailor.evals.datasets import Dataset
from promptailor.prompts.patterns import Catalogue

Stage = Literal["titles", "prompts"]
_POOL = 8  # batches drawn at once and sorted by length, so that a batch has little padding


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(ModelSize):
    """Lengths and rates beside the model's size; the defaults made the weights that ship with the package."""

    title_steps: int = 200
    steps: int = 4000
    """Of the second stage."""
    batch_size: int = 16
    max_titles: int = 48
    """Titles per history of the first stage."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.03
    """Share of a stage in which the learning rate rises; it then falls to zero along a cosine."""
    lookup_share: float = 0.1
    """Share of the second stage without histories: short prompts, on which the model learns to look numbers up."""
    growth_share: float = 0.15
    """Share of the second stage after that in which histories grow to their full length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """What a training run reports after each step."""

    stage: Stage
    step: int
    n_steps: int
    loss: float


class Sized(Protocol):
    """A training example that knows its length."""

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and answer."""
        ...


S = TypeVar("S", bound=Sized)


def train_lm(
    dataset: Dataset,
    catalogue: Catalogue,
    out_dir: Path,
    *,
    config: TrainingConfig | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> LmManifest:
    """Train an embedded model on a data set's training sequences and write its finished folder.

    Args:
        dataset: only `training_sequences()`, items, years and profiles are read.
        catalogue: whose sentences the model learns to follow, by their `strategy`.
        out_dir: becomes the finished folder; what stood there is replaced.
        config: sizes and lengths.
        seed: of the initial weights and of every draw.
        threads: of torch. Runs with equal seeds and thread counts give equal weights on one machine.
        progress: called after each step.
    """
    config, started = config or TrainingConfig(), time.monotonic()
    torch.set_num_threads(threads)
    tasks = load_tasks()
    phrases, words = prompt_phrases(catalogue, tasks, dataset.domain), prompt_words(catalogue, tasks, dataset.domain)
    vocabulary = data_vocabulary(phrases, words, list(dataset.items), dataset, catalogue)
    encoder = PromptEncoder(build_tokenizer(vocabulary))
    teachers = Teachers.of(dataset)
    corpus = Corpus(dataset, catalogue, tasks, encoder, teachers)
    synonyms = [encoder.phrase_ids(variants) for variants in sentence_variants(catalogue, tasks, dataset.domain)]
    model = build_model(encoder, list(dataset.items.values()), synonyms, teachers, config, seed)
    _run(model, encoder, corpus, config, seed, progress)
    manifest = LmManifest(
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        catalogue_digest=catalogue.digest,
        vocabulary_digest=digest(vocabulary),
        seed=seed,
        n_parameters=model.num_parameters(),
        training=dataclasses.asdict(config),
        minutes=round((time.monotonic() - started) / 60, 1),
        phrases=phrases,
        words=words,
        item_ids=tuple(dataset.items),
    )
    with tempfile.TemporaryDirectory() as weights:
        write_weights(model, manifest, model_card(manifest), Path(weights))
        finish(Path(weights), dataset, catalogue, out_dir)
    return manifest


def _run(
    model: LlamaForCausalLM,
    encoder: PromptEncoder,
    corpus: Corpus,
    config: TrainingConfig,
    seed: int,
    progress: Callable[[TrainingProgress], None],
) -> None:
    """Train both stages."""
    losses = Losses(model, encoder, naming_layer=config.naming_layer)
    model.set_attn_implementation(_TRAINING_ATTENTION)

    def reach(done: float) -> float:
        return float(np.clip((done - config.lookup_share) / config.growth_share, 0.0, 1.0))

    titles = _batches(
        (seed, 1),
        lambda rng, done: corpus.title_sequence(rng, config.max_titles),
        config.title_steps,
        config.batch_size,
    )
    prompts = _batches((seed, 2), lambda rng, done: corpus.example(rng, reach(done)), config.steps, config.batch_size)
    _stage("titles", titles, config.title_steps, losses, losses.titles, config, progress)
    _stage("prompts", prompts, config.steps, losses, losses.answers, config, progress)
    model.set_attn_implementation("sdpa")


def _stage(
    stage: Stage,
    batches: Iterator[list[S]],
    n_steps: int,
    losses: Losses,
    loss_of: Callable[[Sequence[S]], torch.Tensor],
    config: TrainingConfig,
    progress: Callable[[TrainingProgress], None],
) -> None:
    optimiser = torch.optim.AdamW(
        losses.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    warmup = max(1, round(config.warmup * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * step / n_steps))
    )
    losses.model.train()
    for step, batch in enumerate(batches, 1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_FAST_BFLOAT16):
            loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(losses.model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress(TrainingProgress(stage=stage, step=step, n_steps=n_steps, loss=loss.item()))
    losses.model.train(False)


def _batches(
    key: tuple[int, ...], draw: Callable[[np.random.Generator, float], S], n_batches: int, batch_size: int
) -> Iterator[list[S]]:
    """Yield batches of examples of similar length, the batches of a pool in random order."""
    rng = np.random.default_rng(key)
    for done in range(0, n_batches, _POOL):
        pool = [draw(rng, done / n_batches) for _ in range(_POOL * batch_size)]
        pool.sort(key=lambda example: example.n_tokens)
        for place in rng.permutation(_POOL)[: n_batches - done]:
            yield pool[place * batch_size : (place + 1) * batch_size]


# Matrix products in bfloat16 halve the time where the processor has tiles for them, and take longer where it has not.
# Attention stays in fp32: its backward pass in bfloat16 costs more than all else together.
_FAST_BFLOAT16 = torch.cpu._is_amx_tile_supported()
_TRAINING_ATTENTION = "sdpa_fp32"


def _attention_in_fp32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)


AttentionInterface.register(_TRAINING_ATTENTION, _attention_in_fp32)
