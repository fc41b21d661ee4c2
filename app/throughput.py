"""`promptailor bench --models A,B`: the same prompts to several models, side by side: speed, validity, agreement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median

from pydantic import BaseModel, RootModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from scipy.stats import kendalltau

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.store import ResponseStore
from promptailor.app.progress import progress_bar
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.parse import parse_ranking

N_PROMPTS = 64
ROUNDS = 3
"""Models take turns, so that a busy moment does not fall on one of them alone."""


class ModelSpeed(BaseModel):
    """What one model made of the prompts."""

    model: str
    prompts_per_s: float
    """Wall clock, median of the rounds."""
    cpu_ms_per_prompt: float
    """Of this process; a server's own is not in it."""
    valid: float
    """Share of answers that named every candidate once."""
    tau: float
    """Mean Kendall's tau of the rankings and the first model's."""
    output_tokens: float
    """Per prompt."""


class Comparison(RootModel[list[ModelSpeed]]):
    """One row per model."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the rows as a table."""
        table = Table("prompts/s", "CPU ms/prompt", "valid", "tau to the first", "tokens out", box=None)
        table.add_column("model", overflow="fold")
        for row in self.root:
            numbers = f"{row.prompts_per_s:.1f}", f"{row.cpu_ms_per_prompt:.1f}", f"{row.valid:.1%}", f"{row.tau:.3f}"
            table.add_row(*numbers, f"{row.output_tokens:.1f}", escape(row.model))
        yield table


@dataclass
class _Runner:
    port: ModelPort
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    answers: list[Completion] = field(default_factory=list)

    async def run(self, prompts: Sequence[AssembledPrompt], turn: int) -> None:
        """Ask everything at once; another turn is another sample, so that nothing comes from the store."""
        calls = [
            ModelCall(messages=prompt.messages, labels=prompt.labels, split="validation", sample_index=turn)
            for prompt in prompts
        ]
        started, cpu = time.perf_counter(), time.process_time()
        self.answers = list(await asyncio.gather(*map(self.port.acomplete, calls)))
        self.wall_s.append(time.perf_counter() - started)
        self.cpu_s.append(time.process_time() - cpu)


def compare_models(specs: Sequence[str], dataset: str) -> Comparison:
    """Send the manual prompts of validation users to each model, concurrently, in turns.

    Raises:
        SpecError: no such model or data set.
        ModelCallError: a model failed for good.
    """
    workspace = Workspace(settings=Settings(), dataset_name=dataset, model=None)
    cases = workspace.cases(workspace.split.validation[:N_PROMPTS], 10, 0)
    manual = workspace.catalogue.manual_prompt
    prompts = [assemble(case.request, manual, workspace.catalogue, seed=0) for case in cases]
    runners = [
        _Runner(connect(spec, settings=workspace.settings, store=ResponseStore(in_threads=False), budget=Budget()))
        for spec in specs
    ]
    asyncio.run(_take_turns(runners, prompts))
    rankings = [
        [parse_ranking(answer.text, prompt.shown) for answer, prompt in zip(runner.answers, prompts, strict=True)]
        for runner in runners
    ]
    return Comparison(
        [
            ModelSpeed(
                model=spec,
                prompts_per_s=len(prompts) / median(runner.wall_s),
                cpu_ms_per_prompt=1_000 * median(runner.cpu_s) / len(prompts),
                valid=mean(ranking.report.valid for ranking in ours),
                tau=mean(
                    kendalltau(_places(a.order), _places(b.order)).statistic
                    for a, b in zip(ours, rankings[0], strict=True)
                ),
                output_tokens=mean(answer.output_tokens for answer in runner.answers),
            )
            for spec, runner, ours in zip(specs, runners, rankings, strict=True)
        ]
    )


async def _take_turns(runners: Sequence[_Runner], prompts: Sequence[AssembledPrompt]) -> None:
    with progress_bar("comparing", len(runners) * (ROUNDS + 1)) as advance:
        for runner in runners:  # warms up
            await runner.run(prompts[:4], 0)
            runner.wall_s.clear()
            runner.cpu_s.clear()
            advance(1)
        for turn in range(1, ROUNDS + 1):
            for runner in runners:
                await runner.run(prompts, turn)
                advance(1)


def _places(order: Sequence[int]) -> list[int]:
    """Return the place of each candidate in an order."""
    return sorted(range(len(order)), key=order.__getitem__)
