"""What /metrics says, in Prometheus' format: of the gateway's replica that answers, which every series names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class Metrics:
    """Counts of a replica."""

    def __init__(self, replica: str) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter("bae_ray_requests", "Requests answered.", ["replica", "route", "status"], registry=own)
        self._seconds = Histogram(
            "bae_ray_request_seconds", "From a request's head to its answer's end.", ["replica", "route"],
            buckets=SECONDS, registry=own,
        )  # fmt: skip
        one: dict[str, Any] = {"labelnames": ["replica"], "registry": own}
        self._rows = Counter("bae_ray_rows", "Rows taken in.", **one).labels(replica)
        self._inflight = Gauge("bae_ray_inflight_requests", "Requests under way.", **one).labels(replica)
        self._bytes = Gauge("bae_ray_inflight_bytes", "Bytes that they hold.", **one).labels(replica)
        self._batch_rows = Histogram("bae_ray_batch_rows", "Rows of a batch.", buckets=ROWS, **one).labels(replica)
        self._batch_seconds = Histogram(
            "bae_ray_batch_seconds", "From a batch's start to its result.", buckets=SECONDS, **one
        ).labels(replica)
        self._encoders = Gauge("bae_ray_encoders", "Encoders of the registry.", ["replica", "status"], registry=own)
        self._keys = Gauge(
            "bae_ray_keys_current",
            "1: the keys are those of their file as it is now; 0: it cannot be read.",
            **one,
        )
        self._replica = replica

    def answered(self, route: str, status: int, seconds: float, rows: int) -> None:
        """Count a request."""
        self._requests.labels(self._replica, route, str(status)).inc()
        self._seconds.labels(self._replica, route).observe(seconds)
        self._rows.inc(rows)

    def keys(self, are_current: bool) -> None:
        """Set whether the keys in force are those of their file."""
        self._keys.labels(self._replica).set(are_current)

    def inflight(self, requests: int, size: int) -> None:
        """Set what is under way."""
        self._inflight.set(requests)
        self._bytes.set(size)

    @contextmanager
    def batch(self, rows: int) -> Iterator[None]:
        """Count a batch and its time."""
        started = time.perf_counter()
        yield
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(time.perf_counter() - started)

    def page(self, ready: int, broken: int) -> bytes:
        """The page."""
        self._encoders.labels(self._replica, "ready").set(ready)
        self._encoders.labels(self._replica, "broken").set(broken)
        return generate_latest(self._registry)
