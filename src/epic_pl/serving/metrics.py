"""What Prometheus reads of a server."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Metrics of one process that takes requests.

    Args:
        waiting: returns the number of requests that wait for an answer.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "epic_pl_requests", "Requests by status", ["status"], registry=registry
        )
        self.seconds = Histogram("epic_pl_request_seconds", "Seconds to respond", registry=registry)
        self.batch_size = Histogram(
            "epic_pl_batch_size", "Size of a request's batch", buckets=_BATCHES, registry=registry
        )
        Gauge("epic_pl_waiting_requests", "Open requests", registry=registry).set_function(waiting)


class MeasuredRequests:
    """Middleware that measures the requests of some paths.

    Args:
        app: the application.
        metrics: where it is counted.
        paths: that are measured.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: tuple[str, ...]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and measure it."""
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.seconds.observe(time.monotonic() - start)
