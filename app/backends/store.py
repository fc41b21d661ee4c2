"""What was paid for, kept in one SQLite file: model answers by content, embeddings by text, and what all of it cost.

An answer and its cost are written in one transaction before anybody uses them, so a killed run pays nothing twice and
a resumed one counts what it had already spent. The file also says which models answered, so that it can be replayed.

Runs that ask the same model about the same data can share a library, another store: what one of them has bought is free
for the others. Each keeps a copy of what it uses and the cost of its own requests, so a run's folder stays complete.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from promptailor.app.backends.budget import ONE_CALL, Spending
from promptailor.prompts.errors import InputError

STORE_FILE = "responses.sqlite"
"""Name of a run's store in its folder."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, requests INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings (key TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    id INTEGER PRIMARY KEY CHECK (id = 0), calls INTEGER NOT NULL, tokens INTEGER NOT NULL, usd REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS models (
    spec TEXT NOT NULL, fingerprint TEXT NOT NULL, max_candidates INTEGER, PRIMARY KEY (spec, fingerprint)
) WITHOUT ROWID;
INSERT OR IGNORE INTO spending VALUES (0, 0, 0, 0);
"""
BUSY_S = 60.0
"""How long a process waits for another one that writes to the same file."""
_SPEND = "UPDATE spending SET calls = calls + ?, tokens = tokens + ?, usd = usd + ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedModel:
    """A model that answered into a store; with `spec` and `fingerprint` its answers are found again."""

    spec: str
    fingerprint: str
    max_candidates: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """One recorded answer."""

    text: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 1
    """Requests the answer took, retries included."""


class ResponseStore:
    """Answers, embeddings and the request count of one run, or of everybody who shares the file."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        read_only: bool = False,
        library: ResponseStore | None = None,
        in_threads: bool = True,
    ) -> None:
        """Name a store; the file is opened, or made, when it is first used.

        Args:
            path: of the file; None keeps it in memory.
            read_only: refuse to write.
            library: asked where this store has no answer, and given every new one; whoever made it closes it.
            in_threads: whether coroutines visit it from another thread, so that a server's event loop goes on. A batch
                job owns its loop, and a visit takes less time than to change threads for it.
        """
        self.path, self.read_only, self.library = path, read_only, library
        self.in_threads = in_threads or library is not None  # another process may hold a library for long
        self.hits = 0
        """Answers that cost this process nothing, because they had been paid for before."""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def _db(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock and a transaction.

        Raises:
            InputError: the file is no store, or cannot be written: no permission, or no space left.
        """
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _open(self.path) if self.read_only else _connect(self.path)
                with self._connection:
                    yield self._connection
            except (sqlite3.Error, OSError) as error:
                fix = (
                    "free some space and go on with --resume"
                    if "full" in str(error)
                    else "delete the file or name another folder"
                )
                raise InputError(f"response store {self.path}: {error}; {fix}") from None

    def get(self, key: str) -> StoredResponse | None:
        """Return a recorded answer; one of the library's is copied."""
        found = self._get(key)
        if found is None and self.library and (found := self.library.get(key)):
            self._put(key, found, Spending())
        return found

    def put(self, key: str, response: StoredResponse, spent: Spending = ONE_CALL) -> None:
        """Record an answer and what its last request cost, in one transaction: a kill loses both or neither."""
        self._put(key, response, spent)
        if self.library:
            self.library.put(key, response, spent)

    def _get(self, key: str) -> StoredResponse | None:
        with self._db() as db:
            row = db.execute(
                "SELECT text, model, input_tokens, output_tokens, requests FROM responses WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        text, model, input_tokens, output_tokens, requests = row
        return StoredResponse(
            text=text, model=model, input_tokens=input_tokens, output_tokens=output_tokens, requests=requests
        )

    def _put(self, key: str, response: StoredResponse, spent: Spending) -> None:
        with self._db() as db:
            db.execute(_SPEND, (spent.calls, spent.tokens, spent.usd))
            db.execute(
                "INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?)",
                (
                    key,
                    response.text,
                    response.model,
                    response.input_tokens,
                    response.output_tokens,
                    response.requests,
                ),
            )

    def spend(self, spent: Spending) -> None:
        """Record the cost of a request that brought no answer."""
        with self._db() as db:
            db.execute(_SPEND, (spent.calls, spent.tokens, spent.usd))
        if self.library:
            self.library.spend(spent)

    def count_hit(self) -> None:
        """Count an answer that cost nothing."""
        with self._lock:
            self.hits += 1

    @property
    def spending(self) -> Spending:
        """The cost of all requests so far, over every part of a run; those in flight when it was killed are not in."""
        if self._connection is None and (self.path is None or not self.path.exists()):
            return Spending()
        with self._db() as db:
            calls, tokens, usd = db.execute("SELECT calls, tokens, usd FROM spending").fetchone()
        return Spending(calls=calls, tokens=tokens, usd=usd)

    @property
    def requests(self) -> int:
        """Requests answered or failed so far."""
        return self.spending.calls

    def add_model(self, model: RecordedModel) -> None:
        """Record that a model's answers are here."""
        with self._db() as db:
            db.execute(
                "INSERT OR IGNORE INTO models VALUES (?, ?, ?)", (model.spec, model.fingerprint, model.max_candidates)
            )
        if self.library:
            self.library.add_model(model)

    def models(self) -> list[RecordedModel]:
        """Return the models whose answers are here."""
        with self._db() as db:
            rows = db.execute("SELECT spec, fingerprint, max_candidates FROM models ORDER BY spec").fetchall()
        return [RecordedModel(spec=spec, fingerprint=mark, max_candidates=most) for spec, mark, most in rows]

    def get_embedding(self, key: str) -> bytes | None:
        """Return a recorded embedding, float32 little-endian; one of the library's is copied."""
        with self._db() as db:
            row = db.execute("SELECT vector FROM embeddings WHERE key = ?", (key,)).fetchone()
        found = None if row is None else row[0]
        if found is None and self.library and (found := self.library.get_embedding(key)):
            self._put_embedding(key, found)
        return found

    def put_embedding(self, key: str, vector: bytes) -> None:
        """Record an embedding."""
        self._put_embedding(key, vector)
        if self.library:
            self.library.put_embedding(key, vector)

    def _put_embedding(self, key: str, vector: bytes) -> None:
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", (key, vector))

    def delete(self) -> None:
        """Close the store and delete its file, when what was paid for has been delivered."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Flush and close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _open(path: Path | None) -> sqlite3.Connection:
    assert path is not None, "memory cannot be opened to be read only"
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path or ":memory:", timeout=BUSY_S, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(_SCHEMA)
    return connection
