"""`promptailor evaluate`: the same test users for every method, a run folder, a report with a verdict."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.store import ResponseStore
from promptailor.app.commit import current_commit
from promptailor.app.headroom import TEST_USERS, VALIDATION_USERS, measure_headroom, sample_prompts
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.job import TrainConfig
from promptailor.app.methods import (
    PER_USER,
    SEARCHES,
    TAILORED,
    MethodSpec,
    build_methods,
    calls_model,
    load_policies,
    parse_methods,
    rewrites_sentences,
)
from promptailor.app.progress import progress_bar
from promptailor.app.projection import announce, project_evaluation
from promptailor.app.settings import Settings
from promptailor.app.training import run_training_job
from promptailor.app.wiring import RANDOM, Workspace, open_store
from promptailor.evals.baselines.base import Method
from promptailor.evals.baselines.registry import CLASSIC, null_controls
from promptailor.evals.controls import SHUFFLED
from promptailor.evals.metrics import MEAN_RANK
from promptailor.evals.report import Environment, EvalReport, RunInfo, read_learning_curve
from promptailor.evals.runner import evaluate
from promptailor.evals.types import EvalCase
from promptailor.policies.base import PromptPolicy
from promptailor.prompts.errors import InputError, RunInterruptedError
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, load_catalogue

SEARCHED = "searched"
"""Folder of the searches that an evaluation ran itself."""
_REPORTED_PACKAGES = ("promptailor", "langgraph", "langchain-core", "torch", "transformers", "numpy", "scipy")


class EvaluateConfig(BaseModel):
    """Everything an evaluation depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: str
    dataset: str
    model: str | None = None
    refiner: str | None = None
    users: str = "all"
    n_candidates: int = 10
    candidates_from: str = RANDOM
    """Where the negatives come from: chance, a baseline's name, or a file of published lists."""
    retrieve: bool = False
    """Whether the candidates are what `candidates_from` retrieves, the target among them or not."""
    protocol: Literal["cold", "warm"] = "cold"
    """`cold`: test users that no method has met. `warm`: those for whom every method that has words of a user's own has
    searched them, on their second-to-last item."""
    seed: int = 0
    budget: str | None = None
    decompose: int = 0
    catalogue: Path | None = None
    search_calls: int = 3_000
    """Calls of a search that is run on the spot."""


class Evaluation(BaseModel):
    """An evaluation's findings, and where they lie."""

    folder: Path
    complete: bool
    spent: Spending
    """On requests of every part of a resumed run; each method's own cost is in the report."""
    projected: Spending
    """What was foreseen before the run."""
    cache_hits: int
    """Answers of this process that had been paid for before."""
    left_out: int = 0
    """Test users for whom `candidates_from` has too few items."""
    report: EvalReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table of methods and say the verdicts."""
        measures = ("ndcg@1", "ndcg@5", "mrr@10", "hr@5", MEAN_RANK)
        table = Table(box=None, header_style="bold")
        for column in ("method", "ndcg@10", *measures, "calls/user", "invalid", "s"):
            table.add_column(column, no_wrap=True)
        for name, result in {**self.report.methods, **self.report.controls}.items():
            if name.startswith(SHUFFLED):
                continue
            primary, found = result.primary, result.measures
            cells = [f"{primary.mean:.3f} [{primary.low:.3f}, {primary.high:.3f}]"]
            cells += [f"{found[m].mean:.3f}" if m in found else "" for m in measures]
            calls = result.llm_calls / max(1, result.n_users)
            cells += [f"{calls:.1f}", f"{result.invalid_rate:.1%}", f"{result.seconds:.0f}"]
            table.add_row(name, *cells, style="" if name in self.report.methods else "dim")
        yield table
        yield from self.report.verdicts
        if self.report.recall < 1:
            yield f"retrieved: {self.report.recall:.1%} of the relevant items; users without theirs count as 0"
        if self.left_out:
            yield f"left out: {self.left_out:,} test users without enough candidates in --candidates-from"
        if self.report.incomplete:
            yield f"incomplete: {self.report.incomplete}"
        yield f"spent: {self.spent}; {self.cache_hits:,} answers from the store"
        yield f"report: {self.folder / 'report.html'}"


def run_evaluation(
    config: EvaluateConfig,
    out: Path,
    *,
    resume: bool,
    budget: Budget | None = None,
    library: ResponseStore | None = None,
) -> Evaluation:
    """Evaluate methods on test users and write the run's folder.

    Args:
        config: every setting.
        out: the run's folder.
        resume: go on with the run that the folder holds.
        budget: of a job that this run is a part of, and that counts what it has spent; else the config's own.
        library: answers that the runs of such a job share.

    Raises:
        InputError: unknown names, users that were trained on, a folder that holds another run.
        RunInterruptedError: the user stopped it before there was anything to report.
    """
    store = open_store(out, library)
    if budget is None:
        searches = (open_store(folder) for folder in sorted((out / SEARCHED).glob("*")))
        used = sum((search.spending for search in searches), store.spending)
        budget = Budget.parse(config.budget, used=used)
    with stop_on_interrupt(budget):
        return _evaluate(config, out, store, budget, resume=resume)


def _evaluate(config: EvaluateConfig, out: Path, store: ResponseStore, budget: Budget, *, resume: bool) -> Evaluation:
    specs, catalogue = parse_methods(config.methods), load_catalogue(config.catalogue)
    workspace = Workspace(
        settings=Settings(),
        dataset_name=config.dataset,
        model=config.model,
        refiner=(config.refiner or config.model) if rewrites_sentences(specs, catalogue) else None,
        seed=config.seed,
        candidates_from=config.candidates_from,
        retrieve=config.retrieve,
        catalogue=catalogue,
        store=store,
        budget=budget,
    )
    specs = [_searched(spec, config, out, workspace, resume=resume) for spec in specs]
    policies = load_policies(specs, workspace)
    test = _warm_users(workspace, policies) if config.protocol == "warm" else workspace.split.test
    covered = [user for user in test if workspace.source is None or workspace.source.covers(user)]
    chosen = _test_users(covered, config.users)
    cases = workspace.cases(chosen, config.n_candidates, config.seed)
    left_out = len(test) - len(covered) + len(chosen) - len(cases)
    methods = build_methods(specs, workspace, policies, config.seed)
    personal = [m for kind in PER_USER for m, spec in zip(methods, specs, strict=True) if spec.name == kind]
    projected = _project(workspace, methods, policies, cases, config.decompose if personal else 0, config.seed)
    announce("evaluating", projected, budget)
    info = RunInfo(
        environment=_environment(config, workspace, left_out),
        validation_users=workspace.split.validation,
        warm_users=tuple(chosen) if config.protocol == "warm" else (),
        comparisons=planned_comparisons(specs),
        action_names=action_names(workspace.catalogue),
        decomposition=(
            measure_headroom(workspace, personal[0], cases, config.decompose, config.seed)
            if personal and config.decompose
            else None
        ),
        learning_curves=_learning_curves(specs),
    )
    controls = null_controls(workspace.baseline_inputs, methods, cases)
    with progress_bar("evaluating", len(cases) * (len(methods) + len(controls))) as advance:
        report = evaluate(
            cases,
            methods,
            controls,
            out,
            seed=config.seed,
            info=info,
            progress=_Advance(advance),
            resume=resume,
        )
    return Evaluation(
        folder=out,
        complete=report.incomplete is None,
        spent=store.spending,
        projected=projected,
        cache_hits=store.hits,
        left_out=left_out,
        report=report,
    )


def _project(
    workspace: Workspace,
    methods: Sequence[Method],
    policies: Mapping[str, PromptPolicy],
    cases: Sequence[EvalCase],
    n_prompts: int,
    seed: int,
) -> Spending:
    """Project the methods, and the prompts that the gain decomposition scores."""
    users = min(len(cases), TEST_USERS)
    return project_evaluation(
        workspace,
        methods,
        policies,
        cases,
        specs=sample_prompts(workspace, n_prompts, seed) if n_prompts else (),
        trials_per_spec=2 * users + min(VALIDATION_USERS, len(workspace.split.validation)),
    )


class _Advance:
    """Turns the runner's running totals into steps of a progress bar."""

    def __init__(self, advance: object) -> None:
        self._advance, self._done = advance, dict[str, int]()

    def __call__(self, method: str, done: int, total: int) -> None:
        """Move the bar by what is new."""
        assert callable(self._advance)
        self._advance(done - self._done.get(method, 0))
        self._done[method] = done


def planned_comparisons(specs: Sequence[MethodSpec]) -> tuple[tuple[str, str], ...] | None:
    """Pairs decided before the run: every learned per-user policy against the best single prompt, at its fusion."""
    labels = [spec.label for spec in specs]
    single: str | None = next((name for name in ("enumeration", "manual") if name in labels), None)
    if single is None:
        return None
    pairs = [(s.label, single) for s in specs if s.name in TAILORED and not s.serving]
    fused = next((s.label for s in specs if s.name == single and s.serving), None)
    pairs += [(s.label, fused or single) for s in specs if s.name in TAILORED and s.serving]
    return tuple(pairs) or None


def action_names(catalogue: Catalogue) -> dict[str, tuple[str, ...]]:
    """What each pattern's actions are called in plots."""
    names: dict[str, tuple[str, ...]] = {p: tuple(s.id for s in catalogue.sentences(p)) for p in SENTENCE_PATTERNS}
    increments = tuple(f"+{n}" for n in catalogue.history_records.increments)
    return {**names, "history_records": increments, "user_profile": catalogue.user_profile.ids}


def _searched(spec: MethodSpec, config: EvaluateConfig, out: Path, workspace: Workspace, *, resume: bool) -> MethodSpec:
    """Search a best prompt on training users where the method string names no folder."""
    if spec.folder is not None or spec.name not in SEARCHES:
        return spec
    assert config.model is not None, "a search needs a model; checked by the workspace"
    folder = out / SEARCHED / spec.name
    train = TrainConfig(
        policy=spec.name,
        dataset=config.dataset,
        model=config.model,
        seed=config.seed,
        n_candidates=config.n_candidates,
        # Published lists have too few training users; those of a retriever get its hard negatives, their target added.
        candidates_from=config.candidates_from if config.candidates_from in CLASSIC else RANDOM,
        calls=config.search_calls,
        catalogue=config.catalogue,
    )
    summary = run_training_job(
        train, folder, resume=resume or folder.exists(), budget=workspace.budget, library=workspace.store.library
    )
    if summary.stopped == "interrupted":
        raise RunInterruptedError(f"stopped while searching {spec.label}; go on with --resume")
    return MethodSpec(name=spec.name, label=spec.label, folder=folder, serving=spec.serving)


def _test_users(test: Sequence[str], users: str) -> Sequence[str]:
    if users == "all":
        return test
    if not users.isdigit() or not 0 < int(users) <= len(test):
        raise InputError(f"--users {users!r}: write all, or a number from 1 to {len(test)} (the test users there are)")
    return test[: int(users)]


def _warm_users(workspace: Workspace, policies: Mapping[str, PromptPolicy]) -> Sequence[str]:
    """Return the test users whom every policy with words of a user's own has met; nobody else is served such words."""
    met = [set(policy.info.warm_users) for policy in policies.values() if policy.info.warm_users]
    users = [user for user in workspace.split.test if met and all(user in of_policy for of_policy in met)]
    if not users:
        raise InputError(
            "--protocol warm: no listed method has met a test user; train one, such as pap-rec with --personal 1 "
            "--warm 100, or leave it out"
        )
    return users


def _learning_curves(specs: Sequence[MethodSpec]) -> dict[str, tuple[object, ...]]:
    logs = {s.label: s.folder / "training.jsonl" for s in specs if s.folder is not None and not s.serving}
    return {label: read_learning_curve(path) for label, path in logs.items() if path.is_file()}


def _environment(config: EvaluateConfig, workspace: Workspace, left_out: int) -> Environment:
    return Environment(
        command=" ".join(["promptailor", *sys.argv[1:]]),
        commit=current_commit(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=workspace.model if calls_model(parse_methods(config.methods)) else None,
        dataset=workspace.dataset.name,
        dataset_digest=workspace.dataset.digest,
        catalogue_digest=workspace.catalogue.digest,
        seed=config.seed,
        versions={name: found for name in _REPORTED_PACKAGES if (found := _version(name))},
        settings={
            "n_candidates": config.n_candidates,
            "candidates_from": config.candidates_from,
            "retrieve": config.retrieve,
            "users_left_out": left_out,
            "refiner": workspace.refiner,
            "methods": config.methods,
            "decompose": config.decompose,
            **({"protocol": config.protocol} if config.protocol == "warm" else {}),
        },
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
