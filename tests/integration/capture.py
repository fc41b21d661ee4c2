"""A server that keeps what is sent to LangSmith and to an OpenTelemetry collector, and reads it as they would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

INFO = {
    "version": "0.12.0",
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 100,
        "scale_up_nthreads_limit": 4,
        "scale_up_qsize_trigger": 1000,
        "scale_down_nempty_trigger": 4,
    },
}
"""What LangSmith says of itself; with it, its client sends many runs in one multipart request, uncompressed."""
PROJECT = {
    "id": str(UUID(int=7)),
    "tenant_id": str(UUID(int=8)),
    "name": "promptailor",
    "start_time": "2026-01-01T00:00:00Z",
    "reference_dataset_id": None,
}


@dataclass(frozen=True)
class SentRun:
    """A LangSmith run, of all its posts and patches together."""

    fields: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.fields["id"])

    @property
    def name(self) -> str:
        return str(self.fields["name"])

    @property
    def parent(self) -> str | None:
        return self.fields.get("parent_run_id")

    @property
    def tags(self) -> list[str]:
        return self.fields.get("tags") or []

    @property
    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = self.fields["extra"]["metadata"]
        return metadata

    @property
    def inputs(self) -> dict[str, Any]:
        return self.fields.get("inputs") or {}

    @property
    def outputs(self) -> dict[str, Any]:
        return self.fields.get("outputs") or {}


@dataclass(frozen=True)
class SentSpan:
    """An OpenTelemetry span."""

    id: bytes
    parent: bytes
    trace: bytes
    name: str
    start: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    resource: dict[str, Any]


@dataclass
class Captured:
    """Everything that was posted."""

    url: str = ""
    bodies: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Path, content type, body."""

    def runs(self) -> list[SentRun]:
        """The runs sent to LangSmith, in the order they started."""
        runs: dict[str, dict[str, Any]] = {}
        for kind, run_id, part, value in self._parts():
            if kind in ("post", "patch"):
                known = runs.setdefault(run_id, {})
                known |= {part: value} if part else {k: v for k, v in value.items() if v is not None}
        return [SentRun(run) for run in sorted(runs.values(), key=lambda run: str(run["dotted_order"]))]

    def feedback(self) -> list[dict[str, Any]]:
        """The scores sent to LangSmith."""
        return [value for kind, _, _, value in self._parts() if kind == "feedback"]

    def spans(self) -> list[SentSpan]:
        """The spans sent to the collector, in the order they started."""
        spans = []
        for path, _, body in self.bodies:
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    of = _attributes(resource.resource.attributes)
                    spans += [_span(span, of) for scope in resource.scope_spans for span in scope.spans]
        return sorted(spans, key=lambda span: span.start)

    def bytes(self) -> bytes:
        """All of it."""
        return b"\n".join(body for _, _, body in self.bodies)

    def wait(self, done: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until something has arrived."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"not sent within {seconds} s"
            time.sleep(0.05)

    def _parts(self) -> Iterator[tuple[str, str, str, Any]]:
        for path, content_type, body in list(self.bodies):
            if path != "/runs/multipart":
                continue
            message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
            for part in message.walk():
                if name := part.get_param("name", header="content-disposition"):
                    kind, _, rest = str(name).partition(".")
                    run_id, _, what = rest.partition(".")
                    payload = part.get_payload(decode=True)
                    assert isinstance(payload, bytes)
                    yield kind, run_id, what, json.loads(payload)


@contextmanager
def capture() -> Iterator[Captured]:
    """Serve on a free port until the end of the block."""
    captured = Captured()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self._answer(json.dumps({"/info": INFO, "/sessions": [PROJECT]}.get(path, {})).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            captured.bodies.append((self.path, self.headers.get("content-type", ""), body))
            self._answer(b"" if self.path == "/v1/traces" else b"{}", 200 if self.path == "/v1/traces" else 202)

        def _answer(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        captured.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield captured
        finally:
            server.shutdown()


def _span(span: Any, resource: dict[str, Any]) -> SentSpan:
    return SentSpan(
        id=span.span_id,
        parent=span.parent_span_id,
        trace=span.trace_id,
        name=span.name,
        start=span.start_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=[(event.name, _attributes(event.attributes)) for event in span.events],
        resource=resource,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(part) for part in value.array_value.values] if kind == "array_value" else getattr(value, kind)
