"""Graph nodes and edges that run where the graph runs: in the caller's thread, or on the event loop.

LangGraph hands a plain function to a thread when the graph runs on an event loop. Ours take microseconds, and only the
language model is worth waiting for, so the thread would cost more than the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.runtime import get_runtime

from promptailor.graph.context import Context
from promptailor.graph.tracing import Tell

Update = dict[str, Any]
"""A node's partial state update; LangGraph checks the keys against the state."""


class Node(Runnable[Any, Update]):
    """A node as a function of a state and the run's context.

    Args:
        name: in traces and graph drawings.
        run: the function.
        arun: its counterpart for event loops where it waits for something; `run` itself where empty.
        tell: tells those who listen to the run what the node did.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Any, Context], Update],
        arun: Callable[[Any, Context], Awaitable[Update]] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.name, self._run, self._arun, self._tell = name, run, arun, tell

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Update:
        """Run in this thread."""
        return self._told(input, self._run(input, _context()), config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Update:
        """Run on this event loop."""
        if self._arun is None:
            return self._told(input, self._run(input, _context()), config)
        return self._told(input, await self._arun(input, _context()), config)

    def _told(self, state: Any, update: Update, config: RunnableConfig | None) -> Update:
        if self._tell is not None:
            self._tell(state, update, config)
        return update


class Edge(RunnableLambda[Any, str]):
    """A conditional edge as a function of the state: which node is next.

    A `RunnableLambda`, because LangGraph reads what state an edge needs from the annotations of its function; but
    without the thread and the trace of one.
    """

    def __init__(self, choose: Callable[[Any], str]) -> None:
        super().__init__(choose)
        self._choose = choose

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """Choose."""
        return self._choose(input)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """Choose."""
        return self._choose(input)


def _context() -> Context:
    return get_runtime(Context).context or Context()
