"""The methods that run the rank graph: a policy, and how it is served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from promptailor.evals.baselines.base import RankedUser
from promptailor.graph.build import RankGraph
from promptailor.graph.context import Context
from promptailor.graph.rollout import run_batch
from promptailor.graph.state import RankInput, RankOutput
from promptailor.prompts.domain import RankRequest


@dataclass(frozen=True, kw_only=True)
class GraphMethod:
    """A policy served through the rank graph; an `evals.baselines.base.Method`."""

    name: str
    graph: RankGraph
    context: Context
    """Which policy serves, with how many steps, fused how."""
    n_steps: int
    train_users: tuple[str, ...] = ()
    llm: bool = True

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        """Rank for many users; a request carries no label, so none can reach a prompt."""
        started = time.perf_counter()
        results = run_batch(self.graph, [RankInput.of(r) for r in requests], self.context, n_steps=self.n_steps)
        seconds = (time.perf_counter() - started) / max(1, len(requests))
        return [_ranked(RankOutput.model_validate(result), seconds) for result in results]


def _ranked(output: RankOutput, seconds: float) -> RankedUser:
    return RankedUser(
        user_id=str(output.user_id),
        ranking=tuple(item.item_id for item in output.items),
        llm_calls=output.llm_calls,
        invalid=output.unread_profile or not all(step.parse.valid for step in output.steps),
        rewrites=sum(len(step.refined) + len(step.rejected) for step in output.steps),
        rejected_rewrites=sum(len(step.rejected) for step in output.steps),
        prompt_digests=tuple(step.prompt_digest for step in output.steps),
        actions=tuple(
            {name: choice.action for name, choice in step.choices.items()} | {"history_length": step.history_length}
            for step in output.steps
        ),
        seconds=seconds,
        shown_slots=tuple(output.steps[-1].shown),
        step_rankings=tuple(tuple(step.ranking) for step in output.steps),
    )
