"""What Prometheus is told; every application has its own registry, so that two in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from promptailor.graph.state import RankOutput

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60)


class Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.in_progress = Gauge("promptailor_requests_in_progress", "API requests in progress", registry=self.registry)
        self._seconds = Histogram(
            "promptailor_request_seconds",
            "Time to the end of a response",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._answers = Counter("promptailor_answers", "Ranked answers", ["policy"], registry=self.registry)
        self._fallbacks = Counter(
            "promptailor_fallbacks", "Answers that another policy served than the one asked for", registry=self.registry
        )
        self._repaired = Counter(
            "promptailor_repaired_answers", "Answers of the model that had to be repaired", registry=self.registry
        )
        self._calls = Counter("promptailor_llm_calls", "Model calls, cached ones included", registry=self.registry)
        self._votes = Counter("promptailor_feedback", "Votes", ["vote"], registry=self.registry)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; routes are templates, so that their number is bounded."""
        self._seconds.labels(route, method if method in _METHODS else "other", str(status)).observe(seconds)

    def answered(self, output: RankOutput) -> None:
        """Count a ranked answer."""
        self._answers.labels(output.policy).inc()
        self._calls.inc(output.llm_calls)
        self._fallbacks.inc(output.fallback is not None)
        self._repaired.inc(not output.parse.valid)

    def voted(self, vote: str) -> None:
        """Count a vote."""
        self._votes.labels(vote).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
