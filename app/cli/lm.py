"""`promptailor lm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from promptailor.app.cli.options import (
    CatalogueOption,
    DatasetOption,
    JsonOption,
    ResumeOption,
    SeedOption,
    print_result,
)

app = typer.Typer(help="Train, evaluate and find embedded language models.", no_args_is_help=True)


@app.command("path")
def lm_path(name: Annotated[str, typer.Argument(help="Embedded model.")] = "ml-100k") -> None:
    """Print the finished folder of an embedded model, which `transformers` loads."""
    from promptailor.app.lm import model_path

    typer.echo(model_path(name))


@app.command("train")
def lm_train(
    dataset: DatasetOption,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the model; found by name where empty.")] = None,
    seed: SeedOption = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Instruction-tuning steps.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="More than one only on an idle machine.")] = 1,
    json_output: JsonOption = False,
) -> None:
    """Train an embedded model on a data set's training interactions."""
    from promptailor.app.lm import train_model

    print_result(train_model(dataset, out, seed=seed, steps=steps, threads=threads), json_output)


@app.command("finetune")
def lm_finetune(
    base: Annotated[str, typer.Option("--base", help="Chat model to adapt: folder or hub id.")],
    dataset: DatasetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the adapter.")],
    task: Annotated[
        Literal["ranking", "rating"], typer.Option(help="Learn to rank candidates, or to predict ratings.")
    ] = "ranking",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates of the adapter.")] = 500,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples per update.")] = 16,
    micro_batch_size: Annotated[int, typer.Option("--micro-batch-size", min=1, help="Examples in memory at once.")] = 4,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0.0, help="The highest.")] = 2e-4,
    lora_rank: Annotated[int, typer.Option("--rank", min=1, help="Of the adapter's matrices.")] = 16,
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Tokens of prompt and answer.")] = 1024,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of the base model: bfloat16 on a GPU and float32 on a CPU where it is left open."),
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: SeedOption = 0,
    catalogue: CatalogueOption = None,
    resume: ResumeOption = False,
    json_output: JsonOption = False,
) -> None:
    """Fine-tune a LoRA adapter of any chat model on a data set's training interactions."""
    from promptailor.app.backends.finetune import FinetuneConfig
    from promptailor.app.lm import finetune_model

    config = FinetuneConfig(
        task=task, steps=steps, batch_size=batch_size, micro_batch_size=micro_batch_size, learning_rate=learning_rate,
        rank=lora_rank, max_length=max_length, dtype=dtype, device=device, seed=seed,
    )  # fmt: skip
    print_result(finetune_model(base, dataset, out, config=config, catalogue=catalogue, resume=resume), json_output)


@app.command("eval")
def lm_eval(
    name: Annotated[str, typer.Argument(help="Embedded model.")] = "ml-100k",
    dataset: Annotated[str | None, typer.Option("--dataset", help="The one it was trained on where empty.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure an embedded model: fixed prompts against popularity, valid answers, agreement with its teachers."""
    from promptailor.app.lm import evaluate_model

    print_result(evaluate_model(name, dataset), json_output)
