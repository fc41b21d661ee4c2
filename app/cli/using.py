"""Commands that rank, serve and look at what is here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptailor.app.cli.options import (
    BudgetOption,
    CatalogueOption,
    DatasetOption,
    JsonOption,
    ModelOption,
    RefinerOption,
    SeedOption,
    print_result,
)

app = typer.Typer()


@app.command()
def rank(
    input_file: Annotated[Path, typer.Option("--input", help="One request per line: .jsonl, or a .parquet table.")],
    output: Annotated[Path, typer.Option("--output", help="One answer per line, in input order.")],
    policy: Annotated[str, typer.Option("--policy", help="manual, grips, best-of-k, or NAME=FOLDER.")] = "manual",
    model: ModelOption = "embedded:ml-100k",
    refiner: RefinerOption = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Catalogue that bare item ids are looked up in.")
    ] = None,
    seed: SeedOption = 0,
    permutations: Annotated[
        int | None, typer.Option(min=1, max=50, help="Shuffled copies of each prompt; the policy's own where empty.")
    ] = None,
    budget: BudgetOption = None,
    catalogue: CatalogueOption = None,
    json_output: JsonOption = False,
) -> None:
    """Rank the candidates of every request in a file."""
    from promptailor.app.ranking import rank_file

    result = rank_file(
        input_file, output, policy=policy, model=model, refiner=refiner, dataset=dataset, seed=seed,
        permutations=permutations, budget=budget, catalogue=catalogue,
    )  # fmt: skip
    print_result(result, json_output)


@app.command()
def explain(
    input_file: Annotated[Path, typer.Option("--input", help="One request per line: .jsonl, or a .parquet table.")],
    policy: Annotated[str, typer.Option("--policy", help="manual, grips, best-of-k, or NAME=FOLDER.")] = "manual",
    model: ModelOption = "embedded:ml-100k",
    refiner: RefinerOption = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Catalogue that bare item ids are looked up in.")
    ] = None,
    item: Annotated[str | None, typer.Option("--item", help="Say in sentences what moved this one item.")] = None,
    seed: SeedOption = 0,
    permutations: Annotated[
        int | None, typer.Option(min=1, max=50, help="Shuffled copies of each prompt; the policy's own where empty.")
    ] = None,
    budget: BudgetOption = None,
    catalogue: CatalogueOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say what each part of the prompt did to each item's place; asking again costs nothing."""
    from promptailor.app.explaining import explain_file

    result = explain_file(
        input_file, policy=policy, model=model, refiner=refiner, dataset=dataset, item_id=item, seed=seed,
        permutations=permutations, budget=budget, catalogue=catalogue,
    )  # fmt: skip
    print_result(result, json_output)


@app.command()
def chat(
    model: Annotated[str | None, typer.Option("--model", help="Recommender; that of the settings where empty.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="manual, or NAME=FOLDER.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Catalogue; the model's own data set where empty.")
    ] = None,
    reader: Annotated[
        str | None, typer.Option("--reader", help="Chat model that reads the messages; rules do where empty.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="A user of the data set, whose history counts.")] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", help="Conversation to go on with, kept in PROMPTAILOR_CHECKPOINTER.")
    ] = None,
) -> None:
    """Ask for recommendations in conversation, one line at a time."""
    from promptailor.app.chat_terminal import talk

    talk(model=model, policy=policy, dataset=dataset, reader=reader, user_id=user, thread=thread)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 8000,
    model: Annotated[
        str | None, typer.Option("--model", help="Recommender; PROMPTAILOR_MODEL, else embedded:ml-100k, where empty.")
    ] = None,
    refiner: RefinerOption = None,
    policies: Annotated[
        str | None,
        typer.Option("--policy", help="NAME=FOLDER of a training, or manual; RPP on the embedded model where empty."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Catalogue to chat about; the embedded model's where empty.")
    ] = None,
    explore: Annotated[
        bool, typer.Option("--explore", help="Draw sentences, so that feedback tells how other prompts would do.")
    ] = False,
    permutations: Annotated[
        int | None, typer.Option(min=1, max=50, help="Shuffled copies of each prompt; the policy's own where empty.")
    ] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Requests in progress before 503.")] = 128,
) -> None:
    """Serve the chat recommender: a web page, an API, and the log of feedback."""
    from promptailor.app.server.serve import ServerConfig, run_server

    config = ServerConfig(
        model=model, refiner=refiner, policies=policies, dataset=dataset, explore=explore, permutations=permutations
    )
    run_server(config, host=host, port=port, at_once=at_once, ready=typer.echo)


@app.command("serve-model")
def serve_model(
    model: Annotated[str, typer.Argument(help="Model, as provider:model?options.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 8001,
    latency_ms: Annotated[float, typer.Option("--latency-ms", min=0.0, help="Hold every answer back.")] = 0.0,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Variable that holds the key clients must send.")
    ] = None,
) -> None:
    """Serve a model as an OpenAI-compatible server."""
    from promptailor.app.model_server import serve_model

    serve_model(model, host=host, port=port, latency_ms=latency_ms, api_key_env=api_key_env, ready=typer.echo)


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option("--model", help="Make one cheap call and say what this model can do.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Say which back ends, data sets and extras work here, and what to install for the rest."""
    if model:
        from promptailor.app.probe import probe_model

        print_result(probe_model(model), json_output)
    else:
        from promptailor.app.doctor import examine

        print_result(examine(), json_output)


@app.command()
def bench(
    model: ModelOption = "embedded:ml-100k",
    dataset: DatasetOption = "ml-100k",
    models: Annotated[
        str | None, typer.Option("--models", help="Compare these models, separated by commas, on the same prompts.")
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Measure what grows with users and items, on made-up data.")
    ] = False,
    serve: Annotated[
        int | None, typer.Option("--serve", min=1, help="Visit `promptailor serve` for so many seconds, 50 at once.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure speed and memory against the budgets, several models against each other, or growth with the data."""
    if scaling:
        from promptailor.app.scaling import measure_scaling

        print_result(measure_scaling(), json_output)
    elif serve:
        from promptailor.app.server.load import measure_load

        print_result(measure_load(seconds=serve, model=model), json_output)
    elif models:
        from promptailor.app.throughput import compare_models

        print_result(compare_models([spec.strip() for spec in models.split(",")], dataset), json_output)
    else:
        from promptailor.app.bench import run_bench

        print_result(run_bench(dataset=dataset, model=model), json_output)
