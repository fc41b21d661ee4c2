"""`promptailor bench`: speed and memory against the budgets, each as one row.

Timings are CPU seconds of this process or ratios within one run, because wall-clock times of a shared machine say little.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import RootModel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.backends.embedded import EmbeddedChat
from promptailor.app.settings import Settings
from promptailor.app.training import TrainConfig, run_training_job
from promptailor.app.wiring import Workspace, open_store, train_inputs
from promptailor.evals.methods import GraphMethod
from promptailor.evals.types import EvalCase
from promptailor.graph.context import Context
from promptailor.graph.rollout import run_training
from promptailor.policies.reward import ndcg
from promptailor.prompts.llm import Completion, Message, ModelCall

N_STEPS = 5
N_USERS = 40


@pydantic_dataclass(frozen=True)
class Row:
    """One measurement."""

    name: str
    value: float
    unit: str
    budget: float
    ok: bool


class Bench(RootModel[list[Row]]):
    """Every measurement; its JSON is a plain list."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the rows as a table."""
        table = Table("", "name", "value", "budget", "unit", box=None)
        for row in self.root:
            table.add_row("[green]ok[/]" if row.ok else "[red]--[/]", row.name, f"{row.value:.3g}", f"{row.budget:g}", row.unit)
        yield table


@dataclass
class Meter:
    """CPU seconds spent in model forward passes, to be taken off the rest."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        started = time.thread_time()
        try:
            yield
        finally:
            self.seconds += time.thread_time() - started
