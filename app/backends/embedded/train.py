"""Training: a small Llama learns the catalogue's titles first, then to follow the prompts of the pattern catalogue.

Stage one is plain next-title modelling of training histories (loss on the titles). Stage two is instruction tuning on
`Corpus` examples: cross-entropy on the answer, plus a list-wise loss on the first answer token, so that one forward
pass ranks all candidates. Title embeddings start from the teachers' factors instead of noise.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from promptailor.app.backends.embedded.card import model_card
from promptailor.app.backends.embedded.corpus import Corpus, Example, TitleSequence
from promptailor.app.backends.embedded.folder import LmManifest, digest, finish, write_weights
from promptailor.app.backends.embedded.tasks import load_tasks
from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.embedded.tokenizer import PromptEncoder, build_tokenizer
from promptailor.app.backends.embedded.vocabulary import data_vocabulary, prompt_words
from promptailor.evals.datasets import Dataset
from promptailor.prompts.domain import Item
from promptailor.prompts.patterns import Catalogue

Stage = Literal["titles", "prompts"]
_TITLE_STD = 0.03
_POOL = 8  # batches drawn at once and sorted by length, so that a batch has little padding


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Sizes, lengths and rates; the defaults made the weights that ship with the package."""

    hidden_size: int = 192
    n_layers: int = 4
    n_heads: int = 6
    intermediate_size: int = 512
    title_steps: int = 250
    steps: int = 2400
    """Of the second stage."""
    batch_size: int = 32
    max_titles: int = 48
    """Titles per history of the first stage."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.03
    """Share of a stage in which the learning rate rises; it then falls to zero along a cosine."""
    naming_layer: int = 3
    """The layer whose output must name titles; those after it look up their numbers."""
    probe_weight: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """What a training run reports after each step."""

    stage: Stage
    step: int
    n_steps: int
    loss: float


class Sized(Protocol):
    """A training example that knows its length in tokens."""

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
    items = list(dataset.items.values())
    tasks = load_tasks()
    words = prompt_words(catalogue, tasks, dataset.domain)
    vocabulary = data_vocabulary(words, list(dataset.items), dataset, catalogue)
    encoder = PromptEncoder(build_tokenizer(vocabulary))
    teachers = Teachers.of(dataset)
    corpus = Corpus(dataset, catalogue, tasks, encoder, teachers)
    model = build_model(encoder, config, seed)
    initialise_titles(model, encoder, items, teachers, seed)
    _run_stage(
        "titles",
        config.title_steps,
        model,
        config,
        seed,
        progress,
        lambda rng: corpus.title_sequence(rng, config.max_titles),
        lambda batch: title_loss(model, batch, encoder),
    )
    _run_stage(
        "prompts",
        config.steps,
        model,
        config,
        seed,
        progress,
        corpus.example,
        lambda batch: answer_loss(model, batch, encoder, config.list_weight),
    )
    manifest = LmManifest(
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        catalogue_digest=catalogue.digest,
        vocabulary_digest=digest(vocabulary),
        seed=seed,
        n_parameters=model.num_parameters(),
        training=dataclasses.asdict(config),
        minutes=round((time.monotonic() - started) / 60, 1),
        words=words,
        item_ids=tuple(dataset.items),
    )
    with tempfile.TemporaryDirectory() as weights:
        write_weights(model, manifest, model_card(manifest), Path(weights))
        finish(Path(weights), dataset, catalogue, out_dir)
    return manifest


def initialise_titles(
    model: LlamaForCausalLM, encoder: PromptEncoder, items: Sequence[Item], teachers: Teachers, seed: int
) -> None:
    """Start the title embeddings from the teachers' item factors, reduced to the hidden size and rotated at random.

    The rotation spreads what the factors say over all attention heads.
    """
    weight = model.get_input_embeddings().weight
    size = weight.shape[1]
    factors = teachers.factors(size)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    rotated = np.pad(factors, ((0, 0), (0, size - factors.shape[1]))) @ rotation
    with torch.no_grad():
        for item, row in zip(items, rotated * (_TITLE_STD / rotated.std()), strict=True):
            weight[encoder.title_id(item.title)] = torch.from_numpy(row).to(weight.dtype)


def _run_stage(
    stage: Stage,
    n_steps: int,
    model: LlamaForCausalLM,
    config: TrainingConfig,
    seed: int,
    progress: Callable[[TrainingProgress], None],
    draw: Callable[[np.random.Generator], S],
    loss_of: Callable[[Sequence[S]], torch.Tensor],
) -> None:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    warmup = max(1, round(config.warmup * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * step / n_steps)),
    )
    batches = _batches(np.random.default_rng((seed, len(stage))), draw, config.batch_size)
    model.train()
    for step in range(1, n_steps + 1):
        loss = loss_of(next(batches))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress(TrainingProgress(stage=stage, step=step, n_steps=n_steps, loss=loss.item()))
    model.eval()


def _batches(rng: np.random.Generator, draw: Callable[[np.random.Generator], S], batch_size: int) -> Iterator[list[S]]:
    """Yield batches of examples of similar length, the batches themselves in random order."""
    while True:
        pool = sorted((draw(rng) for _ in range(_POOL * batch_size)), key=lambda example: example.n_tokens)
        for start in rng.permutation(_POOL) * batch_size:
            yield pool[start : start + batch_size]


def build_model(encoder: PromptEncoder, config: TrainingConfig, seed: int) -> LlamaForCausalLM:
    """Make the untrained model."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=encoder.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=encoder.end_id,
            pad_token_id=encoder.pad_id,
        )
    )


def title_loss(
    model: LlamaForCausalLM, batch: Sequence[TitleSequence], encoder: PromptEncoder, config: TrainingConfig
) -> torch.Tensor:
    """Return the cross-entropy of the titles of a batch of histories, read from the layer that names titles."""
    ids = pad([s.tokens for s in batch], encoder.pad_id)
    rows = torch.tensor([r for r, s in enumerate(batch) for _ in s.title_places])
    places = torch.tensor([p for s in batch for p in s.title_places])
    layers = model.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    named = model.model.norm(layers[config.naming_layer][rows, places - 1])
    return F.cross_entropy(model.lm_head(named).float(), ids[rows, places])


def answer_loss(
    model: LlamaForCausalLM, probe: torch.nn.Linear, batch: Sequence[Example], encoder: PromptEncoder, config: TrainingConfig
) -> torch.Tensor:
    """Return the loss of stage two: answers token by token, rankings by the first token, and two that show the way.

    Ranking by number takes two steps that a model finds together only after a long plateau: know which title is wanted,
    and look up its number. So the naming layer, where stage one already predicts titles, must rank the candidates'
    titles at the place of the first answer token; and the probe must read a candidate's own number at its title.
    """
    ids = pad([e.prompt + e.answer for e in batch], encoder.pad_id)
    rows = torch.tensor([r for r, e in enumerate(batch) for _ in e.answer])
    places = torch.tensor([len(e.prompt) + k for e in batch for k in range(len(e.answer))])
    output = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
    hidden, naming = output.last_hidden_state, output.hidden_states[config.naming_layer]
    loss = F.cross_entropy(model.lm_head(hidden[rows, places - 1]).float(), ids[rows, places])
    ranked = [(r, e) for r, e in enumerate(batch) if e.title_places]
    if not ranked:
        return loss
    at = [r for r, _ in ranked], [len(e.prompt) - 1 for _, e in ranked]
    numbers = pad([e.numbers for _, e in ranked], 0)
    present, n_ordered = numbers > 0, torch.tensor([e.n_ordered for _, e in ranked])
    scores = F.linear(hidden[at], model.lm_head.weight[list(encoder.label_ids.values())]).float()
    by_number = plackett_luce(scores.gather(1, (numbers - 1).clamp(min=0)), present, n_ordered)
    title_places = pad([e.title_places for _, e in ranked], 0)
    titles = ids[torch.tensor(at[0])[:, None], title_places]
    named = model.model.norm(naming[at])
    by_title = plackett_luce((model.lm_head.weight[titles] * named[:, None]).sum(-1).float(), present, n_ordered)
    own = probe(naming[torch.tensor(at[0])[:, None], title_places][present]).float()
    global LAST; LAST=(loss.item(), by_number.item(), by_title.item(), F.cross_entropy(own, numbers[present] - 1).item())
    return loss + by_number + by_title + config.probe_weight * F.cross_entropy(own, numbers[present] - 1)


def plackett_luce(scores: torch.Tensor, present: torch.Tensor, n_ordered: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of drawing the columns in order, one after another, without replacement.

    Args:
        scores: shape (batch, places), best first.
        present: which places are filled, same shape.
        n_ordered: shape (batch,); how many leading places count. Later places only stand in the denominators.

    The places are weighted by NDCG's discount, so that the top counts most (position-aware ListMLE, Lan et al. 2014).
    """
    scores = scores.masked_fill(~present, -1e9)
    log_remaining = scores.flip(1).logcumsumexp(1).flip(1)
    places = torch.arange(scores.shape[1])
    weight = (1.0 / torch.log2(places + 2.0)) * (places < n_ordered[:, None]) * present
    return (weight * (log_remaining - scores)).sum() / weight.sum()


def pad(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Stack sequences, padded on the right: under causal attention padding there changes nothing before it."""
    width = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (width - len(s))] for s in sequences])
