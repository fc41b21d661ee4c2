"""`promptailor bench --scaling`: what time and memory grow with, on made-up data of 1,000 to 100,000 users."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import mean
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, RootModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import connect
from promptailor.app.backends.store import ResponseStore
from promptailor.app.progress import progress_bar
from promptailor.app.settings import Settings
from promptailor.evals.baselines.popularity import Popularity
from promptailor.evals.methods import GraphMethod
from promptailor.evals.metrics import PRIMARY, score
from promptailor.evals.protocol import make_cases, split_users
from promptailor.evals.scaling import scaled_dataset
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.policies.manual import manual_policy
from promptailor.prompts.patterns import load_catalogue

T = TypeVar("T")
RANKED_USERS = 500


class Size(NamedTuple):
    """How large a data set."""

    n_users: int
    n_items: int


SIZES = (
    *(Size(n, 5_000) for n in (1_000, 3_000, 10_000, 30_000, 100_000)),
    *(Size(10_000, n) for n in (1_000, 17_000)),
)


class ScaleRow(BaseModel):
    """One size, measured in a process of its own; times are CPU seconds of one core."""

    n_users: int
    n_items: int
    n_interactions: int
    split_s: float
    """Pools of users, and the cases of `RANKED_USERS` of them."""
    embeddings_s: float
    """Training LightGCN's item embeddings, once per data set."""
    rank_ms_per_user: float
    """A request through the graph, a simulated model included."""
    peak_rss_mb: float
    """Of the whole process, the made-up data included."""
    ndcg_popularity: float
    ndcg_embeddings: float
    """Candidates by user embedding times item embedding."""


class Scaling(RootModel[list[ScaleRow]]):
    """One row per size; its JSON is a plain list."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the rows as a table."""
        columns = ("users", "items", "split s", "embeddings s", "rank ms/user", "peak MB", "popularity", "embeddings")
        table = Table(*columns, box=None, header_style="bold")
        for row in self.root:
            table.add_row(
                f"{row.n_users:,}",
                f"{row.n_items:,}",
                f"{row.split_s:.1f}",
                f"{row.embeddings_s:.0f}",
                f"{row.rank_ms_per_user:.1f}",
                f"{row.peak_rss_mb:,.0f}",
                f"{row.ndcg_popularity:.3f}",
                f"{row.ndcg_embeddings:.3f}",
            )
        yield table


def measure_scaling(sizes: Sequence[Size] = SIZES) -> Scaling:
    """Measure every size, the smallest first, each in a fresh process so that peaks of memory are its own."""
    rows = []
    context = multiprocessing.get_context("spawn")
    with progress_bar("scaling", len(sizes)) as progress:
        for size in sorted(sizes):
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                rows.append(pool.submit(measure, size).result())
            progress(1)
    return Scaling(rows)


def measure(size: Size, *, seed: int = 0) -> ScaleRow:
    """Measure one size in this process."""
    from promptailor.policies.lightgcn import train_item_embeddings  # noqa: PLC0415 - imports torch

    dataset = scaled_dataset(*size, seed=seed)
    cases, split_s = _timed(
        lambda: make_cases(dataset, split_users(dataset).test[:RANKED_USERS], n_candidates=10, seed=seed)
    )
    sequences = dataset.training_sequences()
    embeddings, embeddings_s = _timed(lambda: train_item_embeddings(sequences, seed=seed))
    catalogue = load_catalogue()
    port = connect("planted:null", settings=Settings(), store=ResponseStore(in_threads=False), budget=Budget())
    resources = Resources(catalogue=catalogue, recommender=port, policies={"manual": manual_policy(catalogue)})
    manual = GraphMethod(
        name="manual", graph=build_rank_graph(resources, training=False), context=Context(split="test"), n_steps=1
    )
    requests = [case.request for case in cases]
    _, rank_s = _timed(lambda: manual.rank(requests))
    popular = Popularity(sequences).rank(requests)
    near = [embeddings.matrix(r.candidates) @ embeddings.user(r.history) for r in requests]
    personal = [[r.candidates[place].item_id for place in (-s).argsort()] for r, s in zip(requests, near, strict=True)]
    relevant = [case.relevant_item_id for case in cases]
    return ScaleRow(
        n_users=size.n_users,
        n_items=size.n_items,
        n_interactions=dataset.n_interactions,
        split_s=split_s,
        embeddings_s=embeddings_s,
        rank_ms_per_user=1000 * rank_s / len(cases),
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        ndcg_popularity=_ndcg([answer.ranking for answer in popular], relevant),
        ndcg_embeddings=_ndcg(personal, relevant),
    )


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """Return what a call returns, and its CPU seconds over all threads."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def _ndcg(rankings: Sequence[Sequence[str]], relevant: Sequence[str]) -> float:
    return mean(score(ranking, item_id)[PRIMARY] for ranking, item_id in zip(rankings, relevant, strict=True))
