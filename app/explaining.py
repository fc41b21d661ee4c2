"""`promptailor explain`: why each item stands where it stands, from counterfactual prompts."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.store import ResponseStore
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.progress import progress_bar
from promptailor.app.ranking import read_requests
from promptailor.app.serving import policy_context, serving_resources
from promptailor.app.settings import Settings
from promptailor.app.tracing import run_config
from promptailor.graph.attribution import Attribution, attribute
from promptailor.prompts.errors import InputError
from promptailor.prompts.explanations import load_wording
from promptailor.prompts.patterns import load_catalogue

STORE = "explanations.sqlite"
"""In PROMPTAILOR_HOME: what was asked once is free the next time, and a killed run goes on."""


class Explanations(BaseModel):
    """Every request of a file, explained."""

    requests: list[Attribution]
    item_id: str | None
    """The item that was asked about; None for all."""
    served_calls: int
    llm_calls: int
    new_calls: int
    """Requests of the counterfactuals that were made now."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one table per request, or say what moved the one item."""
        for attribution in self.requests:
            if self.item_id is None:
                yield _table(attribution)
            else:
                yield from _sentences(attribution, self.item_id)
        yield f"{self.llm_calls:,} counterfactual calls, {self.new_calls:,} of them now"


def explain_file(
    input_file: Path,
    *,
    policy: str,
    model: str,
    refiner: str | None,
    dataset: str | None,
    item_id: str | None,
    seed: int,
    permutations: int | None,
    budget: str | None,
    catalogue: Path | None,
) -> Explanations:
    """Serve every request of a file and explain its answer.

    Raises:
        InputError: a line is no request, or `item_id` is no candidate of it.
        BudgetExceededError: before a request could be served.
    """
    settings = Settings()
    store = ResponseStore(settings.home / STORE, in_threads=False)
    cap = Budget.parse(budget)
    resources = serving_resources(
        settings, model=model, refiner=refiner, policies=policy, dataset=dataset, catalogue=load_catalogue(catalogue),
        store=store, budget=cap,
    )  # fmt: skip
    context = policy_context(policy, refiner=refiner, seed=seed, permutations=permutations)
    requests = list(read_requests(input_file))
    explained = []
    try:
        with stop_on_interrupt(cap), progress_bar("explaining", len(requests)) as advance:
            for request in requests:
                config = run_config(context.policy, user_id=request.user_id, task="explain", settings=settings)
                explained.append(attribute(resources, request, context, config=config))
                if item_id is not None and item_id not in {item.item_id for item in explained[-1].items}:
                    raise InputError(f"--item {item_id}: no candidate in the request of {request.user_id!r}; name one")
                advance(1)
    finally:
        store.close()
    return Explanations(
        requests=explained,
        item_id=item_id,
        served_calls=sum(one.served_calls for one in explained),
        llm_calls=sum(one.llm_calls for one in explained),
        new_calls=sum(one.new_calls for one in explained),
    )


def _table(attribution: Attribution) -> Table:
    """Return one row per item and one column per part of the prompt: how many places the part moved the item up."""
    wording = load_wording()
    title = f"user {attribution.user_id}: {attribution.policy} on {attribution.model}, step {attribution.step + 1}"
    table = Table("", "item", title=escape(title), title_justify="left", box=None, pad_edge=False)
    for effect in attribution.effects:
        choice, reference = escape(effect.choice.name), escape(effect.reference.name)
        table.add_column(f"{wording.patterns[effect.part]}\n{choice}\n[dim]not {reference}[/]", justify="right")
    for place, item in enumerate(attribution.items):
        moves = [effect.moves[place].moved for effect in attribution.effects]
        table.add_row(str(item.rank), escape(item.title), *map(_places, moves))
    for part, reason in attribution.missing.items():
        table.add_row("", f"[yellow]not asked:[/] {part}: {escape(reason)}")
    return table


def _places(moved: int) -> str:
    """Return places up in green, down in red."""
    if not moved:
        return "[dim]·[/]"
    return f"[green]↑{moved}[/]" if moved > 0 else f"[red]↓{-moved}[/]"


def _sentences(attribution: Attribution, item_id: str) -> RenderResult:
    wording = load_wording()
    item = next(item for item in attribution.items if item.item_id == item_id)
    yield f"user {attribution.user_id}: {wording.place(item.rank)} [bold]{escape(item.title)}[/]"
    yield from (f"  {escape(reason)}" for reason in item.reasons or [wording.unmoved])
    yield from (f"  [yellow]not asked:[/] {part}: {escape(why)}" for part, why in attribution.missing.items())
