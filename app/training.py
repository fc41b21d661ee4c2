"""`promptailor train`: learn a prompt policy on training users, select it on validation users, save it.

A training run can be killed anywhere. Run again with `--resume` it replays the answers it has already paid for and goes
on: the same policy, the same number of calls as an unbroken run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.connect import content_spec
from promptailor.app.backends.store import ResponseStore
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.job import Job, TrainConfig, TrainSummary
from promptailor.app.progress import progress_bar
from promptailor.app.reward_training import train_on_rewards
from promptailor.app.run_folder import POLICY, TrainingFolder
from promptailor.app.settings import Settings
from promptailor.app.trainers import TRAINERS, check_policy
from promptailor.app.wiring import Workspace, open_store, train_inputs
from promptailor.evals.protocol import HoldOut
from promptailor.graph.context import Context
from promptailor.policies.checkpoint import read_manifest
from promptailor.policies.profiling import Profiling
from promptailor.prompts.errors import DataError, InputError
from promptailor.prompts.patterns import load_catalogue

HOLD_OUTS: Mapping[str, HoldOut] = {"agp": "second_last", "pap-rec": "second_last"}
"""Which item of training and validation users is ranked; their last one where the policy is not here."""


def run_training_job(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool,
    budget: Budget | None = None,
    library: ResponseStore | None = None,
) -> TrainSummary:
    """Train a policy.

    Args:
        config: every setting.
        out: the run's folder.
        resume: go on with the run that the folder holds.
        budget: of a job that this run is a part of, and that counts what it has spent; else the config's own.
        library: answers that the runs of such a job share.

    Raises:
        InputError: unknown names, a folder that holds another run, or a data set that lacks users.
    """
    check_policy(config)
    store = open_store(out, library)
    refines = config.policy == "rpp+"
    workspace = Workspace(
        settings=Settings(),
        dataset_name=config.dataset,
        model=config.model,
        refiner=(config.refiner or config.model) if refines else None,
        seed=config.seed,
        candidates_from=config.candidates_from,
        profiling=read_profiling(config.profile_from) if config.profile_from else None,
        catalogue=load_catalogue(config.catalogue),
        store=store,
        budget=budget or Budget.parse(config.budget, used=store.spending),
    )
    if "user_profile" in config.patterns and config.profile_from is None:
        workspace.require_profiles("--profile")
    split = workspace.split
    if config.users > len(split.train):
        raise DataError(f"--users {config.users}: {workspace.dataset.name} has {len(split.train)} training users")
    train, validation = (
        train_inputs(
            workspace.cases(users, config.n_candidates, config.seed, hold_out=HOLD_OUTS.get(config.policy, "last"))
        )
        for users in (split.train[: config.users], split.validation[: config.validation_users])
    )
    workspace.resources()  # every name is resolved before anything is written
    job = Job(
        config=config,
        folder=TrainingFolder.open(out, _identity(config), resume=resume),
        workspace=workspace,
        train=train,
        validation=validation,
        context=Context(policy=config.policy, seed=config.seed, refine=refines, permutations=config.permutations),
    )
    try:
        with stop_on_interrupt(workspace.budget), progress_bar(f"training {config.policy}", config.calls) as progress:
            return (train_on_rewards if config.reward_from else TRAINERS[config.policy])(job, progress)
    except InputError:
        if not store.requests:
            job.folder.withdraw()
        raise


def read_profiling(run: Path) -> Profiling:
    """Return how an AGP run has profiles written.

    Raises:
        CheckpointError: there is no such run, or it is damaged.
        InputError: its policy writes no profile.
    """
    profiling = read_manifest(run / POLICY).profiling
    if profiling is None or profiling.instruction is None:
        raise InputError(f"--profile-from {run}: its policy writes no profile; name the --out of `train --policy agp`")
    return profiling


def _identity(config: TrainConfig) -> dict[str, Any]:
    """Return what makes two runs the same run: not their budget, nor how fast their models are asked."""
    models = {"model": config.model, "refiner": config.refiner}
    content: dict[str, Any] = {role: str(content_spec(text)) if text else None for role, text in models.items()}
    if config.agp:
        roles = {"profiler": config.agp.profiler, "critic": config.agp.critic}
        asked = {role: str(content_spec(text)) if text else None for role, text in roles.items()}
        content["agp"] = config.agp.model_dump(mode="json") | asked
    return config.model_dump(mode="json", exclude={"budget"}) | content
