"""What a run will cost, said before it starts: a few users go through the same graph to a model that only counts.

What they would have asked is multiplied by the number of users. A refiner's requests hardly differ between users and
repeated ones are free, so they are counted once; the repetitions of a policy that has settled, and items that many
users share (their summaries are written once), are not foreseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.backends.port import ModelPort, cache_key
from promptailor.app.wiring import Workspace, train_inputs
from promptailor.evals.baselines.base import Method
from promptailor.evals.methods import GraphMethod
from promptailor.evals.types import EvalCase
from promptailor.graph.build import RankGraph, build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.rollout import GraphEvaluator, run_training
from promptailor.graph.state import TrainInput
from promptailor.policies.base import PromptPolicy, Trial
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.llm import Completion, ModelCall
from promptailor.prompts.patterns import PromptSpec

SAMPLE_USERS = 24
"""Users whose prompts are counted."""


@dataclass(kw_only=True)
class CountingPort:
    """A `ChatPort` that counts what its model would be asked; it returns candidates and sentences as they stand."""

    port: ModelPort
    ranked: Spending = field(default_factory=Spending)
    rewritten: dict[str, Spending] = field(default_factory=dict)
    """By cache key."""

    @property
    def spec(self) -> str:
        """The model's own."""
        return self.port.spec

    @property
    def max_candidates(self) -> int | None:
        """The model's own."""
        return self.port.max_candidates

    def complete(self, call: ModelCall) -> Completion:
        """Count a call."""
        answer = "\n".join(call.labels) or call.messages[-1].content
        cost = self.port.foresee(call, answer)
        if call.labels:
            self.ranked += cost
        else:
            self.rewritten[cache_key(self.spec, call)] = cost
        return Completion(text=answer, model=self.spec)

    async def acomplete(self, call: ModelCall) -> Completion:
        """Count a call."""
        return self.complete(call)


class DryRun:
    """The graphs of a workspace with counters in the models' places."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._recommender = CountingPort(port=workspace.recommender)
        refiner = workspace.refiner_port
        self._refiner = CountingPort(port=refiner) if refiner else None

    def graph(self, policies: Mapping[str, PromptPolicy], *, training: bool = False) -> RankGraph:
        """Compile a graph that asks nobody."""
        resources = self.workspace.resources(policies)
        counted = replace(resources, recommender=self._recommender, refiner=self._refiner, profilers={})
        return build_rank_graph(counted, training=training)

    def take(self, scale: float) -> Spending:
        """Return the cost of what was asked since the last time: rankings times `scale`, distinct rewrites once."""
        ranked = self._recommender.ranked
        ranked = sum(self._recommender.rewritten.values(), ranked)  # profiles and the like: of this user alone
        cost = Spending(calls=round(ranked.calls * scale), tokens=round(ranked.tokens * scale), usd=ranked.usd * scale)
        self._recommender.ranked, self._recommender.rewritten = Spending(), {}
        if self._refiner:
            cost = sum(self._refiner.rewritten.values(), cost)
            self._refiner.rewritten = {}
        return cost


def project_episodes(
    workspace: Workspace,
    policy: PromptPolicy,
    users: Sequence[TrainInput],
    context: Context,
    *,
    n_steps: int,
    user_steps: int,
) -> Spending:
    """Project the training of a stepwise policy, validations included."""
    dry, sample = DryRun(workspace), users[:SAMPLE_USERS]
    graph = dry.graph({context.policy: policy}, training=True)
    run_training(graph, sample, context.model_copy(update={"explore": True}), n_steps=n_steps)
    return dry.take(user_steps / (len(sample) * n_steps))


def project_trials(
    workspace: Workspace, users: Sequence[TrainInput], context: Context, space: PromptSpace, *, user_steps: int
) -> Spending:
    """Project a search, or the training of a one-shot policy, that chooses prompts of a space."""
    specs = [space.spec(space.random("projection", context.seed, number)) for number in range(4 * SAMPLE_USERS)]
    return _trials(workspace, users, specs, context, user_steps)


def project_evaluation(
    workspace: Workspace,
    methods: Sequence[Method],
    policies: Mapping[str, PromptPolicy],
    cases: Sequence[EvalCase],
    *,
    specs: Sequence[PromptSpec] = (),
    trials_per_spec: int = 0,
) -> Spending:
    """Project an evaluation.

    Args:
        workspace: with the recommender that the methods ask.
        methods: those that run the graph are counted, the last of them twice: for its swapped-history control.
        policies: what the methods serve.
        cases: whom the methods rank for.
        specs: prompts that are scored apart, as the gain decomposition does.
        trials_per_spec: on how many users and permutations each.
    """
    served = [method for method in methods if isinstance(method, GraphMethod)]
    if not served:
        return Spending()
    dry = DryRun(workspace)
    graph = dry.graph(policies)
    sample = [case.request for case in cases[:SAMPLE_USERS]]
    total = Spending()
    for method in (*served, served[-1]):
        replace(method, graph=graph).rank(sample)
        total += dry.take(len(cases) / len(sample))
    if specs:
        users = train_inputs(cases[:SAMPLE_USERS])
        total += _trials(workspace, users, specs, Context(split="test"), len(specs) * trials_per_spec)
    return total


def announce(what: str, cost: Spending, budget: Budget) -> None:
    """Say what a run will cost, where it costs anything, and whether its budget allows it."""
    if not cost.calls:
        return
    caps = ((cost.calls, budget.calls), (cost.tokens, budget.tokens), (cost.usd, budget.usd))
    short = any(cap is not None and value > cap for value, cap in caps)
    warning = "; the budget will stop it before its end" if short else ""
    Console(stderr=True, soft_wrap=True).print(f"{what}: about {cost}{warning}", highlight=False)


def _trials(
    workspace: Workspace, users: Sequence[TrainInput], specs: Iterable[PromptSpec], context: Context, user_steps: int
) -> Spending:
    dry = DryRun(workspace)
    evaluator = GraphEvaluator(
        graph=dry.graph({}, training=True),
        inputs_by_user={str(user.user_id): user for user in users[:SAMPLE_USERS]},
        context=context.model_copy(update={"policy": "manual", "refine": False}),
        initial_length=workspace.catalogue.history_records.initial_length,
    )
    ids = evaluator.user_ids
    trials = [Trial(user_id=ids[n % len(ids)], spec=spec, sample_index=n) for n, spec in enumerate(specs)]
    evaluator.rewards(trials)
    return dry.take(user_steps / len(trials))
