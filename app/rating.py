"""`promptailor evaluate-ratings`: predicted ratings of the same test users by every method, with RMSE and MAE.

The second task of RPP's section 3.2, over the same patterns, searches, response store and budget as ranking.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from langchain_core.messages import BaseMessage
from pydantic import BaseModel, ConfigDict
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.port import ModelPort
from promptailor.app.commit import current_commit
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.progress import progress_bar
from promptailor.app.projection import SAMPLE_USERS, announce
from promptailor.app.run_folder import TrainingFolder
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace, open_store
from promptailor.evals.rating_baselines import Bias, GlobalMean, ItemMean, Ratings, UserMean, select_bias
from promptailor.evals.rating_report import (
    RatingReport,
    RatingSearch,
    compare_ratings,
    interval,
    measure,
    write_ratings,
)
from promptailor.evals.ratings import (
    PredictedRating,
    PromptedRatings,
    Rater,
    RatingCase,
    RatingEvaluator,
    RatingMethod,
    make_rating_cases,
    rating_call,
    training_ratings,
)
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.enumeration import enumerate_prompts
from promptailor.policies.manual import MANUAL, SinglePrompt, manual_policy
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.errors import BudgetExceededError, DataError, SpecError
from promptailor.prompts.patterns import load_catalogue
from promptailor.prompts.ratings import RATING_LABELS, assemble_rating, write_distribution

BIAS = "bias"
_BASELINES: dict[str, Callable[[Ratings], RatingMethod]] = {
    scorer.name: scorer for scorer in (GlobalMean, UserMean, ItemMean)
}
_SEARCHES = ("enumeration", "bandit")
_PROMPTED = (MANUAL, *_SEARCHES)
METHODS = (*_BASELINES, BIAS, *_PROMPTED)


class RatingConfig(BaseModel):
    """Everything an evaluation of ratings depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[str, ...] = METHODS
    dataset: str
    model: str | None = None
    users: int | None = None
    """First so many test users; None: all."""
    train_users: int = 200
    """Whose last ratings reward the searches."""
    calls: int = 3_000
    """Trials of each search."""
    seed: int = 0
    budget: str | None = None
    catalogue: Path | None = None

    @classmethod
    def parse_methods(cls, text: str) -> tuple[str, ...]:
        """Read `--methods`; an unknown one is a `SpecError` that lists the known ones."""
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if unknown := [name for name in names if name not in METHODS]:
            raise SpecError(f"--methods {unknown[0]!r}: unknown for ratings; there are {', '.join(METHODS)}")
        if not names:
            raise SpecError(f"--methods: names none; there are {', '.join(METHODS)}")
        return names

    @property
    def prompted(self) -> tuple[str, ...]:
        """The methods that ask a model."""
        return tuple(name for name in self.methods if name in _PROMPTED)

    @property
    def searches(self) -> tuple[str, ...]:
        """The methods that are learned on training users first."""
        return tuple(name for name in self.methods if name in _SEARCHES)


class RatingEvaluation(BaseModel):
    """An evaluation's findings, and where they lie."""

    folder: Path
    complete: bool
    spent: Spending
    """On requests of every part of a resumed run."""
    cache_hits: int
    report: RatingReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table of methods."""
        table = Table(box=None, header_style="bold")
        for column in ("method", "RMSE", "MAE", "calls/user", "invalid"):
            table.add_column(column, no_wrap=True)
        for name, result in self.report.methods.items():
            calls = result.llm_calls / result.n_users
            cells = [interval(result.rmse), interval(result.mae), f"{calls:.1f}", f"{result.invalid_rate:.1%}"]
            table.add_row(name, *cells)
        yield table
        for c in self.report.paired:
            yield f"squared error, {c.a} - {c.b}: {c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}], p = {c.p_holm:.4f}"
        if self.report.incomplete:
            yield f"incomplete: {self.report.incomplete}"
        yield f"spent: {self.spent}; {self.cache_hits:,} answers from the store"
        yield f"report: {self.folder / 'ratings.md'}"


def run_rating(config: RatingConfig, out: Path, *, resume: bool) -> RatingEvaluation:
    """Predict test users' last ratings and write the run's folder.

    Raises:
        InputError: unknown names, a data set without ratings or with fewer users, a folder that holds another run.
        BudgetExceededError: no method was finished.
    """
    store = open_store(out)
    budget = Budget.parse(config.budget, used=store.spending)
    workspace = Workspace(
        settings=Settings(),
        dataset_name=config.dataset,
        model=config.model if config.prompted else None,
        seed=config.seed,
        catalogue=load_catalogue(config.catalogue, task="rating"),
        store=store,
        budget=budget,
    )
    with stop_on_interrupt(budget):
        report = _Run(config=config, workspace=workspace).finish(out, resume=resume)
    return RatingEvaluation(
        folder=out, complete=report.incomplete is None, spent=store.spending, cache_hits=store.hits, report=report
    )


@dataclass(kw_only=True)
class _Run:
    """One evaluation."""

    config: RatingConfig
    workspace: Workspace

    def finish(self, out: Path, *, resume: bool) -> RatingReport:
        """Search, predict, measure and write."""
        config, workspace = self.config, self.workspace
        dataset, split = workspace.dataset, workspace.split
        ratings = training_ratings(dataset)
        cases = make_rating_cases(dataset, _first(split.test, config.users, "--users"))
        train = make_rating_cases(dataset, _first(split.train, config.train_users, "--train-users"))
        validation = make_rating_cases(dataset, split.validation, "second_last")
        rater, n_trials = self._rater(), len(config.searches) * config.calls
        if rater:
            announce("predicting ratings", self._project(rater, cases, n_trials), workspace.budget)
        TrainingFolder.open(out, config.model_dump(mode="json", exclude={"budget"}), resume=resume)

        bias: Bias | None = None
        searches: dict[str, RatingSearch] = {}
        predicted: dict[str, list[PredictedRating]] = {}
        incomplete: BudgetExceededError | None = None
        with progress_bar("predicting ratings", n_trials + len(config.methods) * len(cases)) as advance:
            for name in config.methods:
                method: RatingMethod
                try:
                    if name in _PROMPTED:
                        assert rater is not None, "`_rater` made one, as a method asks for it"
                        policy = self._policy(name, RatingEvaluator(cases=train, rater=rater, progress=advance))
                        if name in _SEARCHES:
                            searches[name] = RatingSearch(
                                trials=config.calls,
                                stopped=policy.stopped,
                                prompt=policy.spec.model_dump() if isinstance(policy, SinglePrompt) else None,
                            )
                        method = PromptedRatings(name=name, policy=policy, rater=rater, seed=config.seed)
                    elif name == BIAS:
                        method = bias = select_bias(ratings, validation)
                    else:
                        method = _BASELINES[name](ratings)
                    predicted[name] = method.predict([case.request for case in cases], advance)
                except BudgetExceededError as error:
                    incomplete = incomplete or error
        if incomplete and not predicted:
            raise incomplete
        report = RatingReport(
            dataset=dataset.name,
            dataset_digest=dataset.digest,
            catalogue_digest=workspace.catalogue.digest,
            model=workspace.model,
            seed=config.seed,
            commit=current_commit(),
            command=" ".join(["promptailor", *sys.argv[1:]]),
            train_users=tuple(case.request.user_id for case in train) if config.searches else (),
            validation_users=split.validation if bias else (),
            test_users=tuple(case.request.user_id for case in cases),
            bias_strengths=(bias.user_strength, bias.item_strength) if bias else None,
            methods={n: measure(cases, answers, name=n, seed=config.seed) for n, answers in predicted.items()},
            searches=searches,
            paired=compare_ratings(cases, predicted, _pairs(config.methods), seed=config.seed),
            incomplete=str(incomplete) if incomplete else None,
        )
        write_ratings(out, report, cases, predicted)
        return report

    def _rater(self) -> Rater | None:
        if not self.config.prompted:
            return None
        port: ModelPort | None = self.workspace.recommender
        while port is not None:
            port.read = rating_text
            port = port.fallback
        return Rater(port=self.workspace.recommender, catalogue=self.workspace.catalogue)

    def _project(self, rater: Rater, cases: Sequence[RatingCase], n_trials: int) -> Spending:
        """Return the cost of all questions, as the manual prompt's are; a repeated trial is free and counted here."""
        port, manual = self.workspace.recommender, rater.catalogue.manual_prompt
        sample = [assemble_rating(case.request, manual, rater.catalogue) for case in cases[:SAMPLE_USERS]]
        costs = [port.foresee(rating_call(prompt, "test"), RATING_LABELS[0]) for prompt in sample]
        total = sum(costs, Spending())
        n_calls = n_trials + len(self.config.prompted) * len(cases)
        share = n_calls / len(sample)
        return Spending(calls=n_calls, tokens=round(total.tokens * share), usd=total.usd * share)

    def _policy(self, name: str, evaluator: RatingEvaluator) -> SinglePrompt | FactoredBandit:
        config, workspace = self.config, self.workspace
        space = PromptSpace(workspace.catalogue)
        if name == MANUAL:
            return manual_policy(workspace.catalogue)
        if name == "enumeration":
            return enumerate_prompts(evaluator, space, calls=config.calls, seed=config.seed)
        bandit = FactoredBandit(space, workspace.embeddings)
        bandit.fit(evaluator, calls=config.calls, seed=config.seed)
        return bandit


def rating_text(answer: BaseMessage) -> str:
    """Return what is kept of an answer: the chances of the ratings where they were read, else the text."""
    log_probs = answer.response_metadata.get("label_log_probs")
    return write_distribution(log_probs) if log_probs else answer.text


def _first(pool: Sequence[str], n: int | None, option: str) -> Sequence[str]:
    if n is not None and n > len(pool):
        raise DataError(f"{option} {n}: there are {len(pool)} such users")
    return pool[:n]


def _pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs decided before the run: the searched against the next simpler prompt, and prompts against biases."""
    prompted = [name for name in (MANUAL, *_SEARCHES) if name in methods]
    pairs = [(searched, simpler) for simpler, searched in pairwise(prompted)]
    return pairs + ([(name, BIAS) for name in prompted] if BIAS in methods else [])
