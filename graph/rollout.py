"""Run the training graph over many users at once and return what learners learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from langchain_core.runnables import RunnableConfig

from promptailor.graph.build import RankGraph, recursion_limit
from promptailor.graph.context import Context
from promptailor.graph.nodes import episode_inputs
from promptailor.graph.state import StepRecord, TrainInput, TrainOutput
from promptailor.policies.base import Trial
from promptailor.policies.types import Rollout, StateInputs, Transition

MAX_CONCURRENCY = 64
"""Users in flight; in-process models gather their concurrent calls into one forward pass."""

Progress = Callable[[int], None]
"""Called with the number of user-steps done since the last call."""


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
    config = RunnableConfig(max_concurrency=MAX_CONCURRENCY, recursion_limit=recursion_limit(n_steps))
    context = context.model_copy(update={"n_steps": n_steps})
    outputs: list[TrainOutput] = []
    for start in range(0, len(inputs), chunk):
        part = inputs[start : start + chunk]
        results = graph.batch(list(part), config, context=context)
        outputs += [TrainOutput(**result) for result in results]
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

    @property
    def user_ids(self) -> Sequence[str]:
        """The training users, in a fixed order."""
        return tuple(self.inputs_by_user)

    def inputs(self, user_id: str) -> StateInputs:
        """The user's state at step 0."""
        history = [item for item in self.inputs_by_user[user_id].history if not isinstance(item, str)]
        return StateInputs(history=tuple(history), step=0, history_length=self.initial_length)

    def rewards(self, trials: Sequence[Trial]) -> list[float]:
        """Return the reward of each trial, in order."""
        inputs = [
            self.inputs_by_user[t.user_id].model_copy(update={"trial": t.spec, "first_sample": t.sample_index})
            for t in trials
        ]
        outputs = run_training(self.graph, inputs, self.context, n_steps=1, progress=self.progress)
        return [output.rewards[0] for output in outputs]
