"""`promptailor lm`: train, measure and find embedded language models, and fine-tune any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.progress import progress_bar
from promptailor.app.settings import Settings
from promptailor.evals.datasets import load_dataset, load_spec
from promptailor.evals.statistics import Estimate
from promptailor.prompts.errors import MissingExtraError
from promptailor.prompts.patterns import load_catalogue

try:
    from promptailor.app.backends.embedded import finished_folder
    from promptailor.app.backends.embedded.evaluate import LmReport, evaluate_lm
    from promptailor.app.backends.embedded.folder import LmManifest, read_manifest
    from promptailor.app.backends.embedded.train import TrainingConfig, TrainingProgress, train_lm
    from promptailor.app.backends.finetune import FinetuneConfig, FinetuneManifest, finetune
    from promptailor.app.backends.local.engine import Engine
except ImportError as error:
    raise MissingExtraError(f"lm: ({error.name} is not installed)", "local") from None


class TrainedModel(BaseModel):
    """A model that was just trained."""

    folder: Path
    manifest: LmManifest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say it in one line."""
        made = self.manifest
        cost = f"{made.n_parameters:,} parameters in {made.minutes} minutes"
        yield f"{made.dataset}: {cost}, saved in {self.folder}"


class LmEvaluation(BaseModel):
    """An embedded model's acceptance table."""

    report: LmReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table."""
        report = self.report
        yield (
            f"{report.dataset}, {report.n_users} users: best prompt {report.best.ndcg:.3f} ({report.best.reasoning}, "
            f"{report.best.history_length} items), worst {report.worst.ndcg:.3f}, mean {report.mean_ndcg:.3f}, "
            f"popularity {report.popularity:.3f}; best over popularity {_interval(report.gain)}"
        )
        formats = Table("format", "valid", "NDCG written", "NDCG first token", box=None)
        for row in report.formats:
            formats.add_row(
                row.output_format, f"{row.valid_rate:.1%}", f"{row.ndcg:.3f}", f"{row.first_token_ndcg:.3f}"
            )
        yield formats
        agreements = Table("reasoning", "tau with it", "without", "gain", box=None)
        for agreement in report.agreements:
            agreements.add_row(
                agreement.reasoning, f"{agreement.tau:.3f}", f"{agreement.tau_without:.3f}", _interval(agreement.gain)
            )
        yield agreements


class FinetunedModel(BaseModel):
    """An adapter that was just trained."""

    folder: Path
    manifest: FinetuneManifest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say what it gained, and how to use it."""
        settings, measured = self.manifest.settings, self.manifest.validation
        measure = "NDCG@10" if settings.task == "ranking" else "1 - |error| / 4"
        yield (
            f"{measure} of {len(measured.user_ids)} validation users: {measured.before.mean:.3f} before, "
            f"{measured.after.mean:.3f} after, gain {_interval(measured.gain)}"
        )
        yield f"{self.manifest.n_parameters:,} parameters saved in {self.folder}"
        yield f"use it with --model 'transformers:{settings.base}?adapter={self.folder}'"


def model_path(name: str) -> Path:
    """Return the finished folder of an embedded model, made on first use."""
    settings = Settings()
    return finished_folder(name, models_dir=settings.models_dir, data_dir=settings.data_dir)


def train_model(dataset: str, out: Path | None, *, seed: int, steps: int | None, threads: int) -> TrainedModel:
    """Train a model on a data set's training interactions; without `out` it is found by the data set's name."""
    settings = Settings()
    data = load_dataset(load_spec(dataset), settings.data_dir)
    config = TrainingConfig() if steps is None else dataclasses.replace(TrainingConfig(), steps=steps)
    folder = out or settings.models_dir / data.name
    with progress_bar(f"training on {data.name}", config.title_steps + config.steps) as advance:

        def step(progress: TrainingProgress) -> None:
            advance(1)

        manifest = train_lm(data, load_catalogue(), folder, config=config, seed=seed, threads=threads, progress=step)
    return TrainedModel(folder=folder, manifest=manifest)


def evaluate_model(name: str, dataset: str | None) -> LmEvaluation:
    """Measure a model on its data set's held-out last items."""
    settings = Settings()
    folder = model_path(name)
    data = load_dataset(load_spec(dataset or read_manifest(folder).dataset), settings.data_dir)
    with progress_bar(f"measuring {name}", None) as advance:
        report = evaluate_lm(
            Engine.from_folder(folder), data, load_catalogue(), progress=lambda what, done, total: advance(1)
        )
    return LmEvaluation(report=report)


def finetune_model(
    base: str, dataset: str, out: Path, *, config: FinetuneConfig, catalogue: Path | None, resume: bool
) -> FinetunedModel:
    """Fine-tune a model on a data set's training interactions and measure what it gained on validation users."""
    data = load_dataset(load_spec(dataset), Settings().data_dir)
    manifest = finetune(data, load_catalogue(catalogue, config.task), base, out, config=config, resume=resume)
    return FinetunedModel(folder=out, manifest=manifest)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
