"""The training loop.

Step n draws its examples and its dropout from (seed, n) alone, so a run that was killed goes on from its checkpoint as
if nothing had happened, and no state of a random generator is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional as F

from promptailor.app.backends.finetune.encoding import EncodedExample, ExampleEncoder
from promptailor.app.backends.finetune.examples import Examples
from promptailor.app.backends.finetune.folder import Checkpoint, FinetuneFolder, FinetuneSettings
from promptailor.app.progress import progress_bar
from promptailor.prompts.errors import CheckpointError, InputError

CHECKPOINT_EVERY = 50
_MAX_GRADIENT_NORM = 1.0
_ATTEMPTS = 20
"""Examples that may turn out too long, one after another."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


def adapter_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(
    model: PeftModel,
    examples: Examples,
    encoder: ExampleEncoder,
    folder: FinetuneFolder,
    settings: FinetuneSettings,
) -> tuple[float, ...]:
    """Train the adapter, from the folder's checkpoint where there is one, and return the loss of each step."""
    parameters = adapter_parameters(model)
    optimiser = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    if checkpoint := folder.checkpoint():
        _restore(checkpoint, parameters, optimiser)
        losses += checkpoint.losses
    model.train()
    if model.device.type == "cuda":  # a third slower, and a long prompt's activations fit beside a large model
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with progress_bar(f"fine-tuning {settings.base}", settings.steps) as advance:
        advance(len(losses))
        for step in range(len(losses), settings.steps):
            batch = _batch(examples, encoder, settings, step)
            torch.manual_seed(int(np.random.default_rng((settings.seed, step)).integers(1 << 62)))
            loss = _add_gradients(model, batch, settings.micro_batch_size)
            if not math.isfinite(loss):
                raise InputError(f"--learning-rate {settings.learning_rate}: too high, step {step + 1} lost {loss}")
            torch.nn.utils.clip_grad_norm_(parameters.values(), _MAX_GRADIENT_NORM)
            optimiser.param_groups[0]["lr"] = settings.learning_rate * _schedule(step, settings)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(round(loss, 6))
            if len(losses) % CHECKPOINT_EVERY == 0 or len(losses) == settings.steps:
                folder.save_checkpoint(_checkpoint(parameters, optimiser, losses))
            advance(1)
    return tuple(losses)


def _batch(examples: Examples, encoder: ExampleEncoder, settings: FinetuneSettings, step: int) -> list[EncodedExample]:
    """Draw a step's examples, sorted by length, so that forward passes have little padding."""
    keys = [(settings.seed, step, place) for place in range(settings.batch_size)]
    drawn = [fitting_example(examples, encoder, settings.max_length, key) for key in keys]
    return sorted(drawn, key=lambda example: example.n_tokens)


def fitting_example(
    examples: Examples, encoder: ExampleEncoder, max_length: int, key: tuple[int, ...]
) -> EncodedExample:
    """Draw an example that fits, halving the history it shows until it does, or else another one.

    Raises:
        InputError: none fits, even with one interaction.
    """
    for attempt in range(_ATTEMPTS):
        max_history: int | None = None
        while max_history != 0:
            example = examples.draw(np.random.default_rng((*key, attempt)), max_history)
            encoded = encoder.encode(example.messages, example.answer)
            if encoded.n_tokens <= max_length:
                return encoded
            max_history = len(example.history) // 2
    raise InputError(f"--max-length {max_length}: too short for a prompt and its answer; raise it")


def _add_gradients(model: PeftModel, batch: Sequence[EncodedExample], micro_batch_size: int) -> float:
    """Add a batch's gradients, and return its loss: the mean of its examples' losses per answer token."""
    total = 0.0
    for start in range(0, len(batch), micro_batch_size):
        loss = answer_losses(model, batch[start : start + micro_batch_size]).sum() / len(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def answer_losses(model: PeftModel, examples: Sequence[EncodedExample]) -> torch.Tensor:
    """Return each example's mean loss over its answer tokens, shape (n_examples,)."""
    width = max(example.n_tokens for example in examples)
    # Padding stands on the right, where causal attention never sees it and every model counts positions alike.
    rows = [[*e.prompt, *e.answer, *[0] * (width - e.n_tokens)] for e in examples]
    masks = [[1] * e.n_tokens + [0] * (width - e.n_tokens) for e in examples]
    ids, mask = torch.tensor(rows, device=model.device), torch.tensor(masks, device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    losses = []
    for row, targets, example in zip(logits, ids, examples, strict=True):
        start, end = len(example.prompt), example.n_tokens
        losses.append(F.cross_entropy(row[start - 1 : end - 1].float(), targets[start:end]))
    return torch.stack(losses)


def _schedule(step: int, settings: FinetuneSettings) -> float:
    """Return the share of the learning rate: a linear rise, then half a cosine."""
    warmup = max(1, round(settings.warmup * settings.steps))
    return min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))


def _checkpoint(
    parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.AdamW, losses: Sequence[float]
) -> Checkpoint:
    tensors = {f"parameter/{name}": parameter.detach() for name, parameter in parameters.items()}
    for moment in _MOMENTS:
        tensors |= {f"{moment}/{name}": optimiser.state[parameter][moment] for name, parameter in parameters.items()}
    return Checkpoint(losses=tuple(losses), tensors=tensors)


def _restore(
    checkpoint: Checkpoint, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.AdamW
) -> None:
    try:
        for name, parameter in parameters.items():
            parameter.data.copy_(checkpoint.tensors[f"parameter/{name}"])
            moments = {m: checkpoint.tensors[f"{m}/{name}"].to(parameter.device) for m in _MOMENTS}
            optimiser.state[parameter] = {"step": torch.tensor(float(len(checkpoint.losses))), **moments}
    except (KeyError, RuntimeError):
        raise CheckpointError("--resume: the checkpoint is of another adapter; fine-tune into another folder") from None
