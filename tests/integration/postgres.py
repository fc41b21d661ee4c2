"""The PostgreSQL server that tests use: a database of its own for each, on the server that the environment names."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

URL = "PROMPTAILOR_TEST_POSTGRES"
"""postgresql://USER:PASSWORD@HOST:PORT/NAME of a server where databases may be made and dropped."""


@contextmanager
def postgres_database() -> Iterator[str]:
    """Make a database and drop it again; without a server the test is skipped, or fails where services are required."""
    server = os.environ.get(URL)
    if not server:
        reason = f"no PostgreSQL server: set {URL}=postgresql://USER:PASSWORD@HOST:PORT/NAME"
        if os.environ.get("PROMPTAILOR_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    psycopg = pytest.importorskip("psycopg")
    name = f"promptailor_{uuid.uuid4().hex[:12]}"
    base, _, options = server.partition("?")
    url = f"{base.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield url
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
