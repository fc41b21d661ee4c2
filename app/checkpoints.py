"""Where threads are kept: SQLite or PostgreSQL by URL, reading back nothing but the graphs' own types.

A checkpoint can name any Python type, and LangGraph's savers import and call what it names unless they are told what to
expect. These are told: whoever can write into the database can still not run code.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from langchain_core import messages
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from promptailor.app.redact import redact
from promptailor.graph.state import (
    Answer,
    ChoiceView,
    RankInput,
    RankOutput,
    StepRecord,
    StepView,
    WindowState,
)
from promptailor.policies.types import AgentChoice, Observation, StateInputs
from promptailor.prompts.assemble import AssembledPrompt
from promptailor.prompts.domain import Item, ParseReport, RankedItem, RankRequest, UserProfile
from promptailor.prompts.errors import InputError, MissingExtraError
from promptailor.prompts.llm import Completion
from promptailor.prompts.patterns import PromptSpec

STATE_TYPES: tuple[type, ...] = (
    Answer, ChoiceView, RankInput, RankOutput, StepRecord, StepView, WindowState, AgentChoice, Observation, StateInputs,
    AssembledPrompt, Item, ParseReport, RankedItem, RankRequest, UserProfile, Completion, PromptSpec,
    messages.AIMessage, messages.AIMessageChunk, messages.HumanMessage, messages.SystemMessage, messages.ToolMessage,
    messages.RemoveMessage,
)  # fmt: skip
"""Everything that the states of the rank graph and the chat graph hold, beside plain values."""

_TIMEOUT_S = 5
_CONNECTIONS = 8


def serializer() -> JsonPlusSerializer:
    """Return a serializer for any saver (`serde=`) that reads back the graphs' types and no others."""
    return JsonPlusSerializer(allowed_msgpack_modules=STATE_TYPES)


@contextmanager
def open_checkpointer(url: str) -> Iterator[BaseCheckpointSaver[str]]:
    """Open a saver for `invoke`, `stream` and `batch`; its tables are made where they are missing.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.

    Raises:
        InputError: the URL is neither, or the database cannot be opened.
        MissingExtraError: the saver's package is not installed.
    """
    with _told_of_faults(url):
        saver, close = _open_sqlite(path) if (path := _sqlite_path(url)) else _open_postgres(url)
    try:
        yield saver
    finally:
        close()


@asynccontextmanager
async def aopen_checkpointer(url: str) -> AsyncIterator[BaseCheckpointSaver[str]]:
    """Open a saver for `ainvoke`, `astream` and `abatch`; otherwise as `open_checkpointer`."""
    with _told_of_faults(url):
        saver, close = await (_aopen_sqlite(path) if (path := _sqlite_path(url)) else _aopen_postgres(url))
    try:
        yield saver
    finally:
        await close()


def _open_sqlite(path: Path) -> tuple[BaseCheckpointSaver[str], Callable[[], None]]:
    from langgraph.checkpoint.sqlite import SqliteSaver  # noqa: PLC0415 - optional extra

    connection = sqlite3.connect(path, check_same_thread=False)
    saver = SqliteSaver(connection, serde=serializer())
    saver.setup()
    return saver, connection.close


async def _aopen_sqlite(path: Path) -> tuple[BaseCheckpointSaver[str], Callable[[], Awaitable[None]]]:
    import aiosqlite  # noqa: PLC0415 - comes with the saver
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - optional extra

    connection = await aiosqlite.connect(path)
    saver = AsyncSqliteSaver(connection, serde=serializer())
    await saver.setup()
    return saver, connection.close


def _open_postgres(url: str) -> tuple[BaseCheckpointSaver[str], Callable[[], None]]:
    from langgraph.checkpoint.postgres import PostgresSaver  # noqa: PLC0415 - optional extra
    from psycopg import Connection  # noqa: PLC0415
    from psycopg.rows import DictRow, dict_row  # noqa: PLC0415
    from psycopg_pool import ConnectionPool  # noqa: PLC0415

    Connection.connect(url, connect_timeout=_TIMEOUT_S).close()  # a pool would only say that it waited in vain
    options = {"autocommit": True, "row_factory": dict_row}
    pool: ConnectionPool[Connection[DictRow]] = ConnectionPool(url, max_size=_CONNECTIONS, open=True, kwargs=options)
    saver = PostgresSaver(pool, serde=serializer())
    saver.setup()
    return saver, pool.close


async def _aopen_postgres(url: str) -> tuple[BaseCheckpointSaver[str], Callable[[], Awaitable[None]]]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # noqa: PLC0415 - optional extra
    from psycopg import AsyncConnection  # noqa: PLC0415
    from psycopg.rows import DictRow, dict_row  # noqa: PLC0415
    from psycopg_pool import AsyncConnectionPool  # noqa: PLC0415

    await (await AsyncConnection.connect(url, connect_timeout=_TIMEOUT_S)).close()
    options = {"autocommit": True, "row_factory": dict_row}
    pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
        url, max_size=_CONNECTIONS, open=False, kwargs=options
    )
    await pool.open()
    saver = AsyncPostgresSaver(pool, serde=serializer())
    await saver.setup()
    return saver, pool.close


@contextmanager
def _told_of_faults(url: str) -> Iterator[None]:
    """Turn what goes wrong while a saver is opened into one line that names the fix, without the password."""
    try:
        yield
    except ImportError:
        extra = "sqlite" if _sqlite_path(url) else "postgres"
        raise MissingExtraError(f"keeping threads in {url.partition(':')[0]}", extra) from None
    except Exception as error:
        if not (isinstance(error, sqlite3.Error) or type(error).__module__.startswith("psycopg")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"checkpointer {redact(url)}: {redact(reason)}; start the database or correct the URL"
        ) from None


def _sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for PostgreSQL."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite" and rest.startswith("/") and rest[1:]:
        return Path(rest[1:])
    if separator and scheme in ("postgresql", "postgres"):
        return None
    raise InputError(f"checkpointer {redact(url)}: write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
