"""Commands that learn, measure and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from promptailor.app.cli.options import (
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    BudgetOption,
    CandidatesFromOption,
    CandidatesOption,
    CatalogueOption,
    DatasetOption,
    JsonOption,
    ModelOption,
    OutOption,
    PermutationsOption,
    RefinerOption,
    ResumeOption,
    SeedOption,
    UsersOption,
    print_result,
)

app = typer.Typer()


@app.command()
def demo(
    out: OutOption = Path("runs/demo"),
    json_output: JsonOption = False,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
) -> None:
    """Run the main job: learn RPP and RPP+ on ml-100k with the embedded model, and report whether it paid."""
    from promptailor.app.demo import run_demo

    print_result(run_demo(out, seed=seed, resume=resume), json_output)


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
    print_result(summary, json_output)
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
    print_result(outcome, json_output)
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
    print_result(outcome, json_output)
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

    print_result(run_artefact(dataset, out, users=users, n_candidates=candidates, seed=seed), json_output)


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
        print_result(describe(run), json_output)
        return
    summary = run_suite(run, budget=budget)
    print_result(summary, json_output)
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
        print_result(write_suite_page(load_suite(suite or "paper"), runs, out or runs / "report"), json_output)
