"""`promptailor serve`: the application on a port, until it is interrupted."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from promptailor.app.settings import Settings
from promptailor.prompts.errors import MissingExtraError

try:
    import uvicorn

    from promptailor.app.model_server import SHUTDOWN_S, AnnouncingServer, address_of, listen
    from promptailor.app.server.application import create_app
    from promptailor.app.server.guard import Limits, RedactingFilter
    from promptailor.app.server.opening import ServerConfig, load_service, opened
except ImportError as error:
    raise MissingExtraError(f"serve: ({error.name} is not installed)", "serve") from None

_KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep an idle connection, so that none is closed while a request is on its way."""

__all__ = ["ServerConfig", "run_server"]


def run_server(
    config: ServerConfig, *, host: str = "127.0.0.1", port: int = 8000, at_once: int = 128, ready: Callable[[str], None]
) -> None:
    """Serve until the process is interrupted; requests in progress then have some seconds to end.

    Args:
        config: what is served.
        host: address to listen on.
        port: 0 takes a free one.
        at_once: API requests in progress at most.
        ready: called with one line when requests are answered.

    Raises:
        PromptailorError: a model, policy, data set or database is not there, or the address cannot be listened on.
    """
    with _logging(), listen(host, port) as listener:
        loaded = load_service(config, Settings())
        gc.collect()
        gc.freeze()  # a collection that looks at everything that was loaded holds up all visitors
        app = create_app(opened(loaded), replace(Limits(), at_once=at_once))
        server = AnnouncingServer(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # the guard logs requests, without user ids
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
                h11_max_incomplete_event_size=32 * 1024,
            ),
            lambda: ready(f"Serving {loaded.resources.recommender.spec} at http://{address_of(host, listener)}"),
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # raised once more after a clean stop
            logging.getLogger(__name__).info("stopped")


@contextmanager
def _logging() -> Iterator[None]:
    """Log to stderr, without keys, for the length of a block."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger("promptailor").setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
