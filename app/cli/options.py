"""Options that several commands have, exit codes, and how a result is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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


def print_result(result: Any, as_json: bool) -> None:
    """Print a command's result: as JSON for programs, in words for people."""
    from pydantic import TypeAdapter

    if as_json:
        typer.echo(TypeAdapter(type(result)).dump_json(result).decode())
    else:
        from rich.console import Console

        console = Console(soft_wrap=True)
        console.width = max(console.width, TABLE_WIDTH)
        console.print(result)
