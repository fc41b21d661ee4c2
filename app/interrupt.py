"""Ctrl-C: the first lets no further request out, so that a run ends with what it has; the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from promptailor.app.backends.budget import Budget

_REASON = "stopped by the user; what was paid for is kept: the same command goes on (train and evaluate with --resume)"


@contextmanager
def stop_on_interrupt(budget: Budget) -> Iterator[None]:
    """Turn the first SIGINT within the block into a stop of the budget; no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.getsignal(signal.SIGINT)

    def stop(signum: int, frame: FrameType | None) -> None:
        budget.stop(_REASON)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # not `before`: that may be a surrounding block's
        Console(stderr=True).print("Stopping after the requests in flight; press Ctrl-C again to stop at once.")

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
