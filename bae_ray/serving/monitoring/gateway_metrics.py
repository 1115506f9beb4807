"""What a replica of the gateway counts: requests, errors, times, batches."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from bae_ray.serving.monitoring.counts import Counts

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class Metrics(Counts):
    """Counts of a gateway's replica."""

    def __init__(self, replica: str) -> None:
        super().__init__(replica)
        labelled = self.labelled
        self._requests = Counter("bae_ray_requests", "Requests answered.", **labelled("encoder", "route", "status"))
        self._errors = Counter("bae_ray_errors", "Requests answered with a problem.", **labelled("encoder", "code"))
        self._seconds = Histogram(
            "bae_ray_request_seconds", "From a request's head to its answer's end.", buckets=SECONDS,
            **labelled("route"),
        )  # fmt: skip
        self._rows = Counter("bae_ray_rows", "Rows taken in.", **labelled()).labels(replica)
        self._inflight = Gauge("bae_ray_inflight_requests", "Requests under way.", **labelled()).labels(replica)
        self._bytes = Gauge("bae_ray_inflight_bytes", "Bytes that they hold.", **labelled()).labels(replica)
        self._waiting = Gauge("bae_ray_waiting_requests", "Requests that wait for a batch.", **labelled("encoder"))
        self._calls = Gauge(
            "bae_ray_inflight_calls", "Calls that are not batched, under way.", **labelled("deployment")
        )
        self._batch_rows = Histogram("bae_ray_batch_rows", "Rows of a batch.", buckets=ROWS, **labelled()).labels(
            replica
        )
        self._batch_seconds = Histogram(
            "bae_ray_batch_seconds", "From a batch's start to its result.", buckets=SECONDS, **labelled()
        ).labels(replica)

        self._keys = Gauge(
            "bae_ray_keys_current",
            "1: the keys are those of their file as it is now; 0: it cannot be read.",
            **labelled(),
        )
        self._starts = Counter("bae_ray_replica_starts", "Replicas that came since it looks.", **labelled("deployment"))

    def answered(
        self, route: str, status: int, seconds: float, rows: int, encoder: str | None = None, code: str | None = None
    ) -> None:
        """Count a request; `encoder`: the registry's id, where it is for one; `code`: of the problem it ended with."""
        self._requests.labels(self.replica, encoder or "", route, str(status)).inc()
        if code is not None:
            self._errors.labels(self.replica, encoder or "", code).inc()
        self._seconds.labels(self.replica, route).observe(seconds)
        self._rows.inc(rows)

    def keys(self, are_current: bool) -> None:
        """Set whether the keys in force are those of their file."""
        self._keys.labels(self.replica).set(are_current)

    def inflight(self, requests: int, size: int) -> None:
        """Set what is under way."""
        self._inflight.set(requests)
        self._bytes.set(size)

    def queued(self, waiting: Mapping[str, int], calls: Mapping[str, int]) -> None:
        """Set the requests that wait, by encoder, and the calls under way, by deployment."""
        self._waiting.clear()
        for encoder, n in waiting.items():
            self._waiting.labels(self.replica, encoder).set(n)
        for deployment, n in calls.items():
            self._calls.labels(self.replica, deployment).set(n)

    def came(self, replicas: Mapping[str, int]) -> None:
        """Count replicas that have come, by deployment."""
        for deployment, n in replicas.items():
            self._starts.labels(self.replica, deployment).inc(n)

    @contextmanager
    def batch(self, rows: int) -> Iterator[None]:
        """Count a batch and its time."""
        started = time.perf_counter()
        yield
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(time.perf_counter() - started)
