"""Run the training graph over many users at once and return what learners learn from."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from promptailor.graph.agents import episode_inputs
from promptailor.graph.build import RankGraph, recursion_limit
from promptailor.graph.context import Context
from promptailor.graph.state import RankInput, StepRecord, TrainInput, TrainOutput
from promptailor.graph.tracing import named_config
from promptailor.policies.base import Trial
from promptailor.policies.types import PaidReward, Rollout, StateInputs, Transition
from promptailor.prompts.llm import ChatPort, Completion, ModelCall

T = TypeVar("T")

MAX_CONCURRENCY = 64
"""Users in flight; in-process models gather their concurrent calls into one forward pass."""

Progress = Callable[[int], None]
"""Called with the number of user-steps done since the last call."""


def run_batch(graph: RankGraph, inputs: Sequence[RankInput], context: Context, *, n_steps: int) -> list[dict[str, Any]]:
    """Run a graph for many users, side by side on one event loop, and return the answers in order.

    Works in scripts and notebooks alike, because the loop has a thread of its own; it lives as long as the process, as
    the connections of API clients do.

    Raises:
        PromptailorError: the first user's whose run failed, after all have ended, so that every answer is stored.
    """
    most = max((len(request.candidates) for request in inputs), default=0)
    config = named_config("rank", context.policy, f"split:{context.split}")
    config["max_concurrency"], config["recursion_limit"] = MAX_CONCURRENCY, recursion_limit(n_steps, most)
    return _run(graph.abatch(list(inputs), config, return_exceptions=True, context=context))


def complete_all(port: ChatPort, calls: Sequence[ModelCall], progress: Progress | None = None) -> list[Completion]:
    """Ask a model side by side what no graph is needed for, and return the answers in order.

    Raises:
        PromptailorError: the first call's that failed, after all have ended, so that every answer is stored.
    """

    async def ask() -> list[Completion | BaseException]:
        slots = asyncio.Semaphore(MAX_CONCURRENCY)

        async def complete(call: ModelCall) -> Completion:
            async with slots:
                answer = await port.acomplete(call)
            if progress:
                progress(1)
            return answer

        return await asyncio.gather(*map(complete, calls), return_exceptions=True)

    return _run(ask())


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run on the event loop that runs as long as the process, and wait for it."""
    running = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return running.result()
    finally:
        running.cancel()  # where the caller was interrupted


def _run(work: Coroutine[Any, Any, Sequence[T | BaseException]]) -> list[T]:
    """Run on the event loop, and raise the first of the exceptions that it returns."""
    done: list[T] = []
    for result in run_on_loop(work):
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rank graphs", daemon=True).start()
    return loop


def run_training(
    graph: RankGraph,
    inputs: Sequence[TrainInput],
    context: Context,
    *,
    n_steps: int,
    chunk: int = 4 * MAX_CONCURRENCY,
    progress: Progress | None = None,
) -> list[TrainOutput]:
    """Run a training graph, in order, `chunk` users at a time.

    Raises:
        BudgetExceededError: the budget ran out on the way; everything paid for is in the response store.
    """
    context = context.model_copy(update={"n_steps": n_steps})
    outputs: list[TrainOutput] = []
    for start in range(0, len(inputs), chunk):
        part = inputs[start : start + chunk]
        outputs += [TrainOutput(**result) for result in run_batch(graph, part, context, n_steps=n_steps)]
        if progress:
            progress(sum(len(o.rewards) for o in outputs[-len(part) :]))
    return outputs


def to_rollout(output: TrainOutput, initial_length: int) -> Rollout:
    """Return the steps an episode just did (a continued episode's earlier steps are left out)."""
    records = output.trace[-len(output.rewards) :]
    return Rollout(
        user_id=output.request.user_id,
        transitions=tuple(_transition(r, reward) for r, reward in zip(records, output.rewards, strict=True)),
        final_inputs=episode_inputs(output.request, output.trace, initial_length),
    )


def start_inputs(user: TrainInput, initial_length: int) -> StateInputs:
    """Return a training user's state at step 0."""
    return StateInputs(
        history=tuple(item for item in user.history if not isinstance(item, str)),
        step=0,
        history_length=initial_length,
        profile=user.user_profile.known if user.user_profile else (),
        user_id=str(user.user_id),
    )


def paid_rewards(outputs: Sequence[TrainOutput]) -> list[PaidReward]:
    """Return what the steps just done were rewarded with, those of catalogue sentences only."""
    return [
        PaidReward(user_id=output.request.user_id, spec=record.spec, reward=reward)
        for output in outputs
        for record, reward in zip(output.trace[-len(output.rewards) :], output.rewards, strict=True)
        if not (record.refined or record.prompt.triggers)
    ]


def _transition(record: StepRecord, reward: float) -> Transition:
    assert record.inputs is not None, "only a stepwise policy's steps are transitions"
    return Transition(
        inputs=record.inputs,
        choices=dict(record.choices),
        reward=reward,
        history_length=record.prompt.history_length,
    )


@dataclass(frozen=True, kw_only=True)
class GraphEvaluator:
    """Trials on training users by the training graph; what search methods and the bandit learn from."""

    graph: RankGraph
    inputs_by_user: Mapping[str, TrainInput]
    context: Context
    initial_length: int
    progress: Progress | None = None
    record: Callable[[Sequence[PaidReward]], None] | None = None
    """Told of every reward of a prompt of catalogue sentences."""

    @property
    def user_ids(self) -> Sequence[str]:
        """The training users, in a fixed order."""
        return tuple(self.inputs_by_user)

    def inputs(self, user_id: str) -> StateInputs:
        """The user's state at step 0."""
        return start_inputs(self.inputs_by_user[user_id], self.initial_length)

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        """Return the reward of each trial, in order."""
        inputs = [
            self.inputs_by_user[t.user_id].model_copy(
                update={
                    "trial": t.spec,
                    "sentences": dict(t.sentences),
                    "triggers": t.triggers,
                    "first_sample": t.sample_index,
                }
            )
            for t in trials
        ]
        outputs = run_training(self.graph, inputs, self.context, n_steps=1, progress=self.progress)
        if self.record:
            self.record(paid_rewards([o for o, trial in zip(outputs, trials, strict=True) if not trial.sentences]))
        return [output.rewards[0] for output in outputs]
