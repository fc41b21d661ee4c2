"""`promptailor chat`: the chat recommender in a terminal, one line in, one answer out."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console

from promptailor.app.chat import chat_graph
from promptailor.app.checkpoints import open_checkpointer, serializer
from promptailor.app.serving import parse_policies
from promptailor.app.settings import Settings
from promptailor.app.tracing import run_config
from promptailor.graph.context import Context
from promptailor.graph.state import RankOutput

PROMPT = "> "


def talk(
    *,
    model: str | None,
    policy: str | None,
    dataset: str | None,
    reader: str | None,
    user_id: str | None,
    thread: str | None,
) -> None:
    """Hold a conversation until the input ends.

    Args:
        model: the recommender's spec; that of the settings where empty.
        policy: which policy writes the prompt, as in `rank`; the first of the settings where empty.
        dataset: the catalogue to recommend from.
        reader: spec of a chat model that reads the messages.
        user_id: a user of the data set.
        thread: name of a conversation that is kept where PROMPTAILOR_CHECKPOINTER says, to go on with it later.
    """
    settings = Settings()
    policies = policy or settings.policies
    context = Context(policy=next(iter(parse_policies(policies)), "manual"))
    thread_id = thread or secrets.token_hex(8)
    console = Console()
    with ExitStack() as stack:
        kept = settings.checkpointer
        saver = (
            stack.enter_context(open_checkpointer(kept.get_secret_value()))
            if kept
            else InMemorySaver(serde=serializer())
        )
        graph = chat_graph(settings, model=model, policies=policies, dataset=dataset, reader=reader, checkpointer=saver)
        for line in _lines(console):
            turn = {"messages": [HumanMessage(line)], "user_id": user_id}
            config = run_config(context.policy, user_id=user_id, thread_id=thread_id, task="chat", settings=settings)
            config["configurable"] = {"thread_id": thread_id}
            answer = graph.invoke(turn, config, context=context)
            console.print(answer["messages"][-1].text, markup=False, highlight=False)
            if answer["ranking"] and (fallback := RankOutput.model_validate(answer["ranking"]).fallback):
                console.print(fallback, markup=False, highlight=False, style="dim")


def _lines(console: Console) -> Iterator[str]:
    """Yield what is typed, or what is piped in, without empty lines."""
    typed = sys.stdin.isatty()
    while True:
        try:
            line = console.input(PROMPT) if typed else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            return
        if not typed and not line:
            return
        if line.strip():
            yield line.strip()
