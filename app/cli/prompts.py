"""`promptailor prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptailor.app.cli.options import CatalogueOption, JsonOption, print_result

app = typer.Typer(help="Versions of an instruction that AGP improves: look, compare, choose.", no_args_is_help=True)

RunArgument = Annotated[Path, typer.Argument(help="Run of `train --policy agp`.")]


@app.command("list")
def prompts_list(run: RunArgument, json_output: JsonOption = False) -> None:
    """List a run's versions, and how each was judged."""
    from promptailor.app.prompt_versions import list_versions

    print_result(list_versions(run), json_output)


@app.command("show")
def prompts_show(
    run: RunArgument,
    version: Annotated[int | None, typer.Argument(help="The served one where empty.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Show one version, the advice it came from, and its verdict."""
    from promptailor.app.prompt_versions import show_version

    print_result(show_version(run, version), json_output)


@app.command("diff")
def prompts_diff(
    run: RunArgument,
    before: Annotated[int | None, typer.Argument(help="The other's parent where empty.")] = None,
    after: Annotated[int | None, typer.Argument(help="The served one where empty.")] = None,
) -> None:
    """Compare two versions line by line."""
    from promptailor.app.prompt_versions import diff_versions

    typer.echo(diff_versions(run, before, after))


@app.command("pin")
def prompts_pin(
    run: RunArgument,
    version: Annotated[int | None, typer.Argument(help="What was learned where empty.")] = None,
    catalogue: CatalogueOption = None,
    json_output: JsonOption = False,
) -> None:
    """Serve a version from now on, whatever was learned."""
    from promptailor.app.prompt_versions import pin_version

    print_result(pin_version(run, version, catalogue), json_output)


@app.command("rollback")
def prompts_rollback(run: RunArgument, catalogue: CatalogueOption = None, json_output: JsonOption = False) -> None:
    """Serve the version that the served one came from."""
    from promptailor.app.prompt_versions import rollback_version

    print_result(rollback_version(run, catalogue), json_output)
