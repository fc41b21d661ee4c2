"""The compiled graphs that `langgraph dev` serves, to Studio, to its clients and to agents over MCP.

`graph` ranks: its input is `RankInput`, its assistants' settings are `Context`. `chat` converses: its input is
`ChatInput`. The recommender is named by PROMPTAILOR_MODEL, the trained policies by PROMPTAILOR_POLICIES (NAME=FOLDER,
separated by commas), the chat's catalogue by PROMPTAILOR_DATASET; without any, the embedded model and the manual prompt
serve.

Threads and answers are kept in PROMPTAILOR_HOME, or where PROMPTAILOR_CHECKPOINTER says, so that going back in a thread
pays for nothing twice, after a restart neither. The server's own saver is not used: it pickles, and in strict
mode (LANGGRAPH_STRICT_MSGPACK) it reads none of our types back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.base import BaseCheckpointSaver

from promptailor.app.backends.store import ResponseStore
from promptailor.app.chat import chat_graph
from promptailor.app.checkpoints import aopen_checkpointer
from promptailor.app.serving import serving_graph
from promptailor.app.settings import Settings

_settings = Settings()
_folder = _settings.home / "studio"
_store = ResponseStore(_folder / "responses.sqlite")

graph = serving_graph(_settings, store=_store)
# A copy has no list of types of its own to lend to the server's wrapper of our saver, which cannot take one (in strict
# mode, langgraph-api 0.16 ends in a RecursionError there); the saver knows the types anyway.
chat = chat_graph(_settings, store=_store, rank_graph=graph.copy(), warm=False)


@asynccontextmanager
async def checkpointer() -> AsyncIterator[BaseCheckpointSaver[str]]:
    """Open the saver of the server's threads."""
    if _settings.checkpointer:
        url = _settings.checkpointer.get_secret_value()
    else:
        _folder.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{_folder / 'threads.sqlite'}"
    async with aopen_checkpointer(url) as saver:
        yield saver
