"""Real servers on the loopback interface, each a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 240.0
"""A server that imports torch takes ten seconds of processor time, and a minute or more on a busy machine."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def script(name: str) -> str:
    """Return a console script of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def running(
    command: Sequence[str], health_url: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; where it does not start, fail with what it has printed."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "LANGSMITH_TRACING": "false"} | dict(environment or {})
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=variables) as server:
        try:
            _wait(health_url, server, log)
            yield server
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(timeout=5)
            except subprocess.TimeoutExpired:  # `transformers serve` does not always end
                server.kill()


def _wait(health_url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(health_url, timeout=5.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
        if server.poll() is not None:
            break
    raise AssertionError(f"{server.args!r} did not start:\n{log.read_text(errors='replace')}")


@contextmanager
def served_model(spec: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run `promptailor serve-model` and yield the address that a client is given."""
    port = free_port()
    command = [script("promptailor"), "serve-model", spec, "--port", str(port), *options]
    with running(command, f"http://127.0.0.1:{port}/health", folder / "serve-model.log", environment):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def transformers_server(model: Path, folder: Path) -> Iterator[str]:
    """Run `transformers serve` with one model, by its folder, and yield the address that a client is given."""
    port, home = free_port(), folder / "hf"
    (home / "hub").mkdir(parents=True)  # without it, the list of models is an error
    command = [script("transformers"), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32"]  # the weights' own type is the small half in which they ship
    environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    log = folder / "transformers-serve.log"
    with running(command, f"http://127.0.0.1:{port}/health", log, environment):
        yield f"http://127.0.0.1:{port}/v1"
