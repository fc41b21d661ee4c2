"""`promptailor sentences`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from promptailor.app.cli.options import (
    EXIT_INTERRUPTED,
    BudgetOption,
    CandidatesOption,
    CatalogueOption,
    DatasetOption,
    JsonOption,
    ModelOption,
    OutOption,
    ResumeOption,
    SeedOption,
    UsersOption,
    print_result,
)

app = typer.Typer(help="Propose, rank and admit new sentences for the catalogue.", no_args_is_help=True)


@app.command("propose")
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
    print_result(summary, json_output)
    if summary.stopped == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command("rank")
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

    print_result(rank_sentences(out, users=users, budget=Budget.parse(budget)), json_output)


@app.command("admit")
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
    print_result(summary, json_output)
    if summary.extension.stopped == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)
