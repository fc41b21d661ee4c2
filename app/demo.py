"""`promptailor demo`: the main job, from real data to a verdict, on the model that ships with the package."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from promptailor.app.data import get_dataset, list_datasets
from promptailor.app.evaluation import EvaluateConfig, Evaluation, run_evaluation
from promptailor.app.job import TrainConfig
from promptailor.app.settings import Settings
from promptailor.app.training import run_training_job
from promptailor.prompts.errors import RunInterruptedError

DATASET = "ml-100k"
MODEL = "embedded:ml-100k"
USERS = 200
CALLS = 3_000
LEARNED = ("rpp", "rpp+", "bandit", "enumeration", "random-search")
"""Everything that learns gets the same number of calls."""
PROMPTS_IN_DECOMPOSITION = 24


def run_demo(out: Path, *, seed: int, resume: bool) -> Evaluation:
    """Learn RPP, RPP+, the bandit and the searches on the same users with the same calls, then compare them all."""
    console = Console(stderr=True)
    started = time.perf_counter()
    settings = Settings()
    if not any(status.present for status in list_datasets(settings.data_dir) if status.name == DATASET):
        get_dataset(DATASET, settings.data_dir)
    folders = {name: out / name for name in LEARNED}
    for name, folder in folders.items():
        config = TrainConfig(policy=name, dataset=DATASET, model=MODEL, users=USERS, seed=seed, calls=CALLS)
        summary = run_training_job(config, folder, resume=resume or folder.exists())
        console.print(summary)
        if summary.stopped == "interrupted":
            raise RunInterruptedError(f"stopped while learning {name}; the same command goes on")
    console.print(f"trained in {time.perf_counter() - started:.0f} s; evaluating")
    methods = ["identity", "random", "popularity", "manual"]
    methods += [f"{name}={folders[name]}" for name in ("enumeration", "random-search", "bandit", "rpp", "rpp+")]
    methods += [f"{name}@fused={folders[name]}?fusion=rrf&n_steps=3" for name in ("enumeration", "rpp")]
    evaluation = run_evaluation(
        EvaluateConfig(
            methods=",".join(methods),
            dataset=DATASET,
            model=MODEL,
            seed=seed,
            decompose=PROMPTS_IN_DECOMPOSITION,
        ),
        out / "evaluate",
        resume=resume or (out / "evaluate").exists(),
    )
    console.print(f"done in {time.perf_counter() - started:.0f} s")
    return evaluation
