"""The command line: parse, call, print. Every command's work is in the module named after it, imported when it runs."""

from __future__ import annotations

import errno
import gc
import os
import sys
from typing import Annotated

import typer

from promptailor.app.cli import data, feedback, learning, lm, prompts, sentences, using
from promptailor.app.cli.options import EXIT_BAD_INPUT, EXIT_INTERRUPTED

app = typer.Typer(
    name="promptailor",
    help="Tailor an LLM recommender's prompt to each user, learn which tailoring pays, and prove whether it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(learning.app)
app.add_typer(using.app)
app.add_typer(data.app, name="data")
app.add_typer(lm.app, name="lm")
app.add_typer(prompts.app, name="prompts")
app.add_typer(sentences.app, name="sentences")
app.add_typer(feedback.app, name="feedback")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Read the options every command has."""
    if debug:
        os.environ["PROMPTAILOR_DEBUG"] = "1"


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
