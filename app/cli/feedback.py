"""`promptailor feedback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptailor.app.cli.options import DatasetOption, JsonOption, OutOption, SeedOption, print_result

app = typer.Typer(help="Export votes, learn from them, judge other policies by them.", no_args_is_help=True)


@app.command("export")
def feedback_export(
    output: Annotated[Path, typer.Option("--output", help="One answer with its votes per line.")],
    json_output: JsonOption = False,
) -> None:
    """Write every answer that was shown, with its sentences' probabilities and its votes."""
    from promptailor.app.feedback import export_feedback

    print_result(export_feedback(output), json_output)


@app.command("learn")
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

    print_result(learn_from_feedback(out, dataset=dataset, share=share, seed=seed), json_output)


@app.command("estimate")
def feedback_estimate(
    policy: Annotated[str, typer.Option("--policy", help="NAME=FOLDER of a training, or manual.")],
    dataset: DatasetOption = "ml-100k",
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Estimate how another policy would have been liked, from votes on answers that were drawn."""
    from promptailor.app.feedback import estimate_from_feedback

    print_result(estimate_from_feedback(policy, dataset=dataset, seed=seed), json_output)
