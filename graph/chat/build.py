"""The wiring of the chat graph, which embeds the rank graph: a `messages` key in, prose and a ranked list out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import TracePolicy, omit_payload

from promptailor.graph.build import RankGraph, recursion_limit
from promptailor.graph.chat.model import ChatReader
from promptailor.graph.chat.nodes import ChatNodes
from promptailor.graph.chat.retriever import Retriever
from promptailor.graph.chat.rules import ChatRules
from promptailor.graph.chat.state import ChatInput, ChatOutput, ChatState
from promptailor.graph.context import MOST_STEPS, Context
from promptailor.graph.inline import Edge, Node, Update
from promptailor.graph.state import RankOutput
from promptailor.prompts.chat import ChatWords
from promptailor.prompts.llm import ChatPort
from promptailor.prompts.patterns import Catalogue

ChatGraph = CompiledStateGraph[Any, Context, Any, Any]

N_CANDIDATES = 10
"""That are ranked for a reply: what the embedded model was trained to put in order."""

_TRACED = TracePolicy(process_inputs=omit_payload)
"""A node's input is the whole thread; what the turn added stands in the outputs."""


class _Step(Runnable[Any, Any]):
    """A plain function before or behind the rank graph, within the node that embeds it."""

    def __init__(self, name: str, run: Callable[[Any], Any]) -> None:
        self.name, self._run = name, run

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._run(input)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._run(input)


def build_chat_graph(
    rank_graph: RankGraph,
    *,
    retriever: Retriever,
    catalogue: Catalogue,
    words: ChatWords,
    reader: ChatPort | None = None,
    n_candidates: int = N_CANDIDATES,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> ChatGraph:
    """Compile the chat graph.

    Args:
        rank_graph: a rank graph for serving, compiled without a checkpointer of its own.
        retriever: where candidates come from.
        catalogue: the pattern catalogue, for the domain's words.
        words: what rules understand and what replies say.
        reader: a chat model that reads the messages; the rules read them where empty, or where it fails.
        n_candidates: how many candidates are ranked for a reply.
        checkpointer: keeps conversations; leave it out for a graph that `langgraph dev` serves.
    """
    domain_words = catalogue.words(retriever.domain)
    nodes = ChatNodes(
        retriever=retriever,
        catalogue=catalogue,
        words=words,
        reader=ChatReader(rules=ChatRules(words, retriever), domain_words=domain_words, model=reader),
        n_candidates=n_candidates,
    )
    builder = StateGraph(ChatState, context_schema=Context, input_schema=ChatInput, output_schema=ChatOutput)

    def add(
        name: str,
        run: Callable[[Any, Context], Update],
        arun: Callable[[Any, Context], Awaitable[Update]] | None = None,
    ) -> None:
        builder.add_node(name, Node(name, run, arun), input_schema=ChatState, trace_policy=_TRACED)

    add("understand", nodes.understand, nodes.aunderstand)
    add("retrieve", nodes.retrieve)
    builder.add_node("rank", _Step("request", nodes.request) | rank_graph | _Step("ranking", _ranking))
    add("reply", nodes.reply)
    builder.add_edge(START, "understand")
    builder.add_conditional_edges("understand", Edge(nodes.after_understand), ["retrieve", "reply"])
    builder.add_conditional_edges("retrieve", Edge(nodes.after_retrieve), ["rank", "reply"])
    builder.add_edge("rank", "reply")
    builder.add_edge("reply", END)
    limit = recursion_limit(MOST_STEPS, n_candidates)
    return builder.compile(checkpointer=checkpointer, name="chat").with_config(recursion_limit=limit)


def _ranking(output: dict[str, Any]) -> Update:
    return {"ranking": RankOutput.model_validate(output).model_dump(mode="json")}
