"""`promptailor bench`: speed and memory against the budgets, one row each.

Timings are CPU seconds, or ratios within one run, because wall-clock times of a shared machine say little. Rows that
need wall-clock time say so in their unit.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel, RootModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect
from promptailor.app.backends.local.bare import bare_generate
from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.store import ResponseStore
from promptailor.app.job import TrainConfig
from promptailor.app.loopback import slow_server
from promptailor.app.settings import Settings
from promptailor.app.training import run_training_job
from promptailor.app.wiring import Workspace, train_inputs
from promptailor.evals.types import EvalCase
from promptailor.graph.context import Context
from promptailor.graph.rollout import run_training
from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy
from promptailor.policies.base import PolicyInfo, StepwisePolicy
from promptailor.policies.reward import ndcg
from promptailor.policies.types import AgentChoice, StateInputs
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.errors import SpecError
from promptailor.prompts.llm import Message, ModelCall
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import PatternName

N_STEPS = 5
N_USERS = 100
N_PROMPTS = 64
GENERATED_TOKENS = 40
RANKED_USERS = 300
HTTP_CALLS = 1_000
HTTP_CONCURRENCY = 64
HTTP_LATENCY_S = 0.05
HTTP_REPEATS = 3


class Row(BaseModel):
    """One measurement."""

    name: str
    value: float
    unit: str
    budget: float
    ok: bool

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, budget: float) -> Row:
        """Return a row whose value should not pass its budget."""
        return cls(name=name, value=value, unit=unit, budget=budget, ok=value <= budget)

    @classmethod
    def at_least(cls, name: str, value: float, unit: str, budget: float) -> Row:
        """Return a row whose value should reach its budget."""
        return cls(name=name, value=value, unit=unit, budget=budget, ok=value >= budget)


class Bench(RootModel[list[Row]]):
    """Every measurement; its JSON is a plain list."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the rows as a table."""
        table = Table("", "name", "value", "budget", "unit", box=None)
        for row in self.root:
            mark = "[green]ok[/]" if row.ok else "[red]--[/]"
            table.add_row(mark, row.name, f"{row.value:.3g}", f"{row.budget:g}", row.unit)
        yield table


def run_bench(*, dataset: str, model: str) -> Bench:
    """Measure everything; takes about two minutes."""
    readouts = _readouts(dataset, model)  # first, because it refuses models that cannot be measured
    rows = [_graph_overhead(), *_start_up(), *_replay(dataset, model), *readouts, *_concurrency()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Bench([*rows, Row.at_most("peak_rss_mb", peak, "MB", 2_000)])


@dataclass
class RecordingPolicy:
    """A stepwise policy that keeps what it was asked, so that its own CPU can be measured apart and taken off."""

    policy: StepwisePolicy
    asked: list[Callable[[], object]] = field(default_factory=list)

    @property
    def info(self) -> PolicyInfo:
        """The policy's own."""
        return self.policy.info

    @property
    def agents(self) -> Mapping[PatternName, str]:
        """The policy's own."""
        return self.policy.agents

    def observe(self, inputs: StateInputs) -> list[float]:
        """Observe, and keep the question."""
        self.asked.append(lambda: self.policy.observe(inputs))
        return self.policy.observe(inputs)

    def act(
        self, pattern: PatternName, vector: Sequence[float], *, key: tuple[str | int, ...], explore: bool
    ) -> AgentChoice:
        """Act, and keep the question."""
        self.asked.append(lambda: self.policy.act(pattern, vector, key=key, explore=explore))
        return self.policy.act(pattern, vector, key=key, explore=explore)


def _graph_overhead() -> Row:
    """CPU per user and step of everything but model forward passes: the planted model answers in .06 ms."""
    workspace = Workspace(settings=Settings(), dataset_name="planted", model="planted:1")
    policy = RecordingPolicy(
        ReinforcedPolicy(
            PolicyConfig(), workspace.catalogue, embeddings=workspace.embeddings, encoder=workspace.encoder, seed=0
        )
    )
    graph = workspace.graph({"rpp": policy}, training=True)
    users = train_inputs(workspace.cases(workspace.split.train[:N_USERS], 10, 0))
    context = Context(policy="rpp", explore=True)
    run_training(graph, users[:10], context, n_steps=N_STEPS)
    policy.asked.clear()
    whole = _cpu(lambda: run_training(graph, users, context.model_copy(update={"seed": 1}), n_steps=N_STEPS))
    forward = _cpu(lambda: [ask() for ask in list(policy.asked)])
    return Row.at_most("cpu_ms_per_user_step", 1_000 * (whole - forward) / (N_USERS * N_STEPS), "ms CPU", 2.0)


def _cpu(run: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, in all threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def _start_up() -> list[Row]:
    return [
        Row.at_most("import_graph_s", _cpu_of([sys.executable, "-c", "import promptailor.graph.build"]), "s CPU", 0.8),
        Row.at_most("help_s", _cpu_of([str(Path(sys.executable).with_name("promptailor")), "--help"]), "s CPU", 0.5),
    ]


def _cpu_of(command: list[str], repeats: int = 3) -> float:
    """Return the least user and system seconds of a command over some runs."""
    spent = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def _replay(dataset: str, model: str) -> list[Row]:
    """Train, then run the finished training again over its own answers."""
    config = TrainConfig(policy="rpp", dataset=dataset, model=model, users=N_USERS, calls=1_200)
    with tempfile.TemporaryDirectory() as folder:
        first = run_training_job(config, Path(folder) / "run", resume=False)
        started = time.perf_counter()
        again = run_training_job(config, Path(folder) / "run", resume=True)
        seconds = time.perf_counter() - started
    return [
        Row.at_most("replay_llm_calls", again.llm_requests - first.llm_requests, "calls", 0),
        Row.at_most("replay_encoder_calls", again.encoder_calls, "texts", 0),
        Row.at_most("replay_s", seconds, "s wall", 0.002 * again.user_steps + 15),
    ]


def _readouts(dataset: str, model: str) -> list[Row]:
    """The in-process model: throughput against bare `generate`, and first token against written answers."""
    workspace = Workspace(settings=Settings(), dataset_name=dataset, model=model, store=ResponseStore(in_threads=False))
    chat = workspace.recommender.model
    if not isinstance(chat, LocalChat):
        raise SpecError(
            f"--model {model}: bench measures models of this process; give embedded:... or transformers:..."
        )
    engine = chat.engine
    cases = workspace.cases(workspace.split.validation[:RANKED_USERS], 10, 0)
    prompts = [assemble(case.request, workspace.catalogue.manual_prompt, workspace.catalogue, seed=0) for case in cases]
    messages = [prompt.messages for prompt in prompts]
    labels = [prompt.labels for prompt in prompts]
    few = messages[:N_PROMPTS]
    engine.generate_texts(few, max_new_tokens=GENERATED_TOKENS)  # the first batch of a shape takes twice as long
    written_s = _timed(lambda: engine.generate_texts(few, max_new_tokens=GENERATED_TOKENS))
    bare_s = _timed(lambda: bare_generate(engine, few, GENERATED_TOKENS))
    ranked_s = _timed(lambda: engine.rank_batch(few, labels[:N_PROMPTS]))
    written = [
        parse_ranking(text, prompt.shown).order
        for text, prompt in zip(engine.generate_texts(messages), prompts, strict=True)
    ]
    ranked = [[int(label) - 1 for label in scores.ranking] for scores in engine.rank_batch(messages, labels)]
    gap = _mean_ndcg(cases, prompts, written) - _mean_ndcg(cases, prompts, ranked)
    return [
        Row.at_least("generate_ratio", bare_s / written_s, "of bare generate", 0.8),
        Row.at_least("first_token_speedup", written_s / ranked_s, "times", 5),
        Row.at_most("first_token_ndcg_gap", abs(gap), "NDCG@10", 0.01),
    ]


def _concurrency() -> list[Row]:
    """How near many requests at once come to the time that the server's latency allows; empty without the client.

    What the client computes for one request is the part of it that can be told on a busy machine. The budget is the
    time in which, at this latency, the next of the answers in flight arrives: a slower client keeps them waiting. What
    the machine itself adds to the latency shows in the time of a client that does nothing else, taken in turn.
    """
    if find_spec("langchain_openai") is None:
        return []
    ideal = -(-HTTP_CALLS // HTTP_CONCURRENCY) * HTTP_LATENCY_S
    with slow_server(HTTP_LATENCY_S) as url:
        spec = f"openai:m?base_url={url}&concurrency={HTTP_CONCURRENCY}"
        runs = [(*asyncio.run(_ask(spec)), asyncio.run(_ask_barely(url))) for _ in range(HTTP_REPEATS)]
    wall, cpu, bare = (min(seconds) for seconds in zip(*runs, strict=True))
    return [
        Row.at_most("http_ratio", wall / ideal, f"of {ideal:g} s wall", 1.25),
        Row.at_most("http_over_bare", wall / bare, "of bare aiohttp", 1.25),
        Row.at_most("http_cpu_ms", 1_000 * cpu / HTTP_CALLS, "ms CPU", 1_000 * HTTP_LATENCY_S / HTTP_CONCURRENCY),
    ]


async def _ask(spec: str) -> tuple[float, float]:
    """Return the wall-clock and the CPU seconds of all calls, after some that open the connections."""
    port = connect(spec, settings=Settings(), store=ResponseStore(in_threads=False), budget=Budget())
    numbers = range(HTTP_CONCURRENCY + HTTP_CALLS)
    calls = [ModelCall(messages=(Message(role="user", content=str(n)),), split="test") for n in numbers]
    await asyncio.gather(*map(port.acomplete, calls[:HTTP_CONCURRENCY]))
    started, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(port.acomplete, calls[HTTP_CONCURRENCY:]))
    return time.perf_counter() - started, time.process_time() - worked


async def _ask_barely(url: str) -> float:
    """Return the wall-clock seconds of as many requests by aiohttp alone, which keeps nothing and reads no answer."""
    import aiohttp  # noqa: PLC0415 - comes with the client whose absence ends the caller

    places = asyncio.Semaphore(HTTP_CONCURRENCY)
    body = {"model": "m", "messages": [{"role": "user", "content": "1"}]}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            async with places, session.post(f"{url}/chat/completions", json=body) as answer:
                await answer.read()

        await asyncio.gather(*(ask() for _ in range(HTTP_CONCURRENCY)))
        started = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(HTTP_CALLS)))
        return time.perf_counter() - started


def _timed(run: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _mean_ndcg(cases: Sequence[EvalCase], prompts: Sequence[AssembledPrompt], orders: Sequence[Sequence[int]]) -> float:
    scores = [
        ndcg([prompt.shown[place].item_id for place in order], [case.relevant_item_id], k=10)
        for case, prompt, order in zip(cases, prompts, orders, strict=True)
    ]
    return sum(scores) / len(scores)
