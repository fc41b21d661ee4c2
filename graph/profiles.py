"""The nodes that have items and users described before a policy chooses (AGP).

They run for policies that ask for it alone. Whatever a model answers, the request goes on: an item without a summary is
shown by its title, a user without a profile is ranked for without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from promptailor.graph.context import Context
from promptailor.graph.inline import Update
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankState
from promptailor.policies.profiling import Profiling
from promptailor.prompts.llm import ChatPort, Completion, ModelCall
from promptailor.prompts.profiles import (
    parse_profile,
    parse_summary,
    profile_messages,
    shown_items,
    summary_call,
    with_profile,
    with_summaries,
)


@dataclass(frozen=True)
class ProfileNodes:
    """Nodes over one set of resources."""

    resources: Resources

    def summarise(self, state: RankState, context: Context) -> Update:
        """Have the items that prompts will show summarised; each is asked about once for all requests."""
        profiler, calls = self._summary_calls(state)
        return _summarised(state, {item_id: profiler.complete(call) for item_id, call in calls.items()})

    async def asummarise(self, state: RankState, context: Context) -> Update:
        """Do what `summarise` does, all items at once."""
        profiler, calls = self._summary_calls(state)
        answers = await asyncio.gather(*map(profiler.acomplete, calls.values()))
        return _summarised(state, dict(zip(calls, answers, strict=True)))

    def write_profile(self, state: RankState, context: Context) -> Update:
        """Have the profiler describe the user."""
        profiler, call = self._profile_call(state, context)
        return _profiled(state, profiler.complete(call)) if call else {}

    async def awrite_profile(self, state: RankState, context: Context) -> Update:
        """Do what `write_profile` does on an event loop."""
        profiler, call = self._profile_call(state, context)
        return _profiled(state, await profiler.acomplete(call)) if call else {}

    def _profiler(self, state: RankState) -> tuple[ChatPort, Profiling]:
        profiling = self.resources.profiling_of(state.policy)
        assert profiling is not None, "the graph comes here for policies that have something written"
        return self.resources.profilers.get(state.policy, self.resources.recommender), profiling

    def _summary_calls(self, state: RankState) -> tuple[ChatPort, dict[str, ModelCall]]:
        """Return who is asked about which items."""
        profiler, profiling = self._profiler(state)
        n_history = profiling.sequence_length if profiling.instruction else 0
        wanted = profiling.summaries and self.resources.summarises
        items = shown_items(state.request.history, state.request.candidates, n_history) if wanted else []
        catalogue, guidance = self.resources.catalogue, self.resources.guidance
        return profiler, {item.item_id: summary_call(item, state.request.domain, catalogue, guidance) for item in items}

    def _profile_call(self, state: RankState, context: Context) -> tuple[ChatPort, ModelCall | None]:
        """Return who is asked about the user, and what; None where there is nothing to describe a user by."""
        profiler, profiling = self._profiler(state)
        if profiling.instruction is None or not state.request.history:
            return profiler, None
        messages = profile_messages(
            state.request,
            profiling.instruction,
            profiling.sequence_length,
            self.resources.catalogue,
            summaries=profiling.summaries,
        )
        return profiler, ModelCall(messages=messages, split=context.split)


def _summarised(state: RankState, answers: Mapping[str, Completion]) -> Update:
    if not answers:
        return {}
    return {"request": with_summaries(state.request, {i: parse_summary(answer.text) for i, answer in answers.items()})}


def _profiled(state: RankState, answer: Completion) -> Update:
    written = parse_profile(answer.text)
    if written is None:
        return {"profile_calls": answer.calls, "unread_profile": True}
    profile = with_profile(state.request.user_profile, written)
    request = state.request.model_copy(update={"user_profile": profile})
    return {"request": request, "profile": written, "profile_calls": answer.calls}
