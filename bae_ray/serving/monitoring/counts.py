"""What replicas count, in Prometheus' terms: every series names the replica that it is of.

Ids of encoders and names of models are those of the registry, never what a request asks for: an unknown id has no
series.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from typing_extensions import override

M = TypeVar("M", Counter, Gauge, Histogram)
disable_created_metrics()  # a second series for each, which nobody reads
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class Counted(NamedTuple):
    """The metrics of one replica."""

    replica: str
    metrics: list[Metric]


class Counts:
    """The metrics of a replica."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self._registry = CollectorRegistry()

    def collected(self) -> Counted:
        """All metrics, to be sent to the gateway's replica that answers /metrics."""
        return Counted(self.replica, list(self._registry.collect()))

    def metric(self, kind: type[M], name: str, told: str, *labels: str, **options: Any) -> M:
        """A metric of this replica; `labels`: those that it has beside the replica's."""
        return kind(name, told, ["replica", *labels], registry=self._registry, **options)


def merged(counted: Iterable[Counted], encoders: Mapping[str, Any]) -> list[Metric]:
    """The series of all replicas under one head each; without those of encoders that are in the registry no more."""
    families: dict[str, Metric] = {}
    for metric in (metric for each in counted for metric in each.metrics):
        family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
        family.samples += [
            sample for sample in metric.samples if not (named := sample.labels.get("encoder")) or named in encoders
        ]
    return list(families.values())


class Metrics(Counts):
    """Counts of a gateway's replica."""

    def __init__(self, replica: str) -> None:
        super().__init__(replica)
        new = self.metric
        self._requests = new(Counter, "bae_ray_requests", "Requests answered.", "encoder", "route", "status")
        self._errors = new(Counter, "bae_ray_errors", "Requests answered with a problem.", "encoder", "code")
        head_to_end = "From a request's head to its answer's end."
        self._seconds = new(Histogram, "bae_ray_request_seconds", head_to_end, "route", buckets=SECONDS)
        self._rows = new(Counter, "bae_ray_rows", "Rows taken in.").labels(replica)
        self._inflight = new(Gauge, "bae_ray_inflight_requests", "Requests under way.").labels(replica)
        self._bytes = new(Gauge, "bae_ray_inflight_bytes", "Bytes that they hold.").labels(replica)
        self._waiting = new(Gauge, "bae_ray_waiting_requests", "Requests that wait for a batch.", "encoder")
        self._calls = new(Gauge, "bae_ray_inflight_calls", "Calls that are not batched, under way.", "deployment")
        self._batch_rows = new(Histogram, "bae_ray_batch_rows", "Rows of a batch.", buckets=ROWS).labels(replica)
        start_to_result = "From a batch's start to its result."
        self._batch_seconds = new(Histogram, "bae_ray_batch_seconds", start_to_result, buckets=SECONDS).labels(replica)
        current = "1: the keys are those of their file as it is now; 0: it cannot be read."
        self._keys = new(Gauge, "bae_ray_keys_current", current)
        self._starts = new(Counter, "bae_ray_replica_starts", "Replicas that came since it looks.", "deployment")

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


class Loads(Counts):
    """Metrics of a replica that keeps a few loaded models."""

    def __init__(self, replica: str, deployment: str, label: str, device: str) -> None:
        """`label`: what is loaded, "encoder" or "language_model"."""
        super().__init__(replica)
        called = f"{label.replace('_', ' ')}s"
        self._device, self._deployment = device, deployment
        self._gone: deque[str] = deque()
        new, succeeded = self.metric, f"Loads of {called}, and whether they succeeded."
        self._loads = new(Counter, f"bae_ray_{label}_loads", succeeded, label, "result")
        self._evictions = new(Counter, f"bae_ray_{label}_evictions", f"Times that {called} left the memory.", label)
        self._loaded = new(Gauge, f"bae_ray_loaded_{label}s", f"{called.capitalize()} in memory.").labels(replica)
        kinds = "Memory of the replica's GPU: free, total, and what its process keeps."
        self._gpu = new(Gauge, "bae_ray_gpu_memory_bytes", kinds, "deployment", "kind")

    @contextmanager
    def loading(self, name: str) -> Iterator[None]:
        """Around a load."""
        try:
            yield
        except Exception:
            self._loads.labels(self.replica, name, "failed").inc()
            raise
        self._loads.labels(self.replica, name, "loaded").inc()
        self._loaded.inc()

    def evicted(self, name: str) -> None:
        """Count an eviction. Takes no lock: the garbage collector may call it anywhere."""
        self._gone.append(name)

    @override
    def collected(self) -> Counted:
        """All metrics, with the GPU's memory now."""
        while self._gone:
            self._evictions.labels(self.replica, self._gone.popleft()).inc()
            self._loaded.dec()
        for kind, size in gpu_memory(self._device).items():
            self._gpu.labels(self.replica, self._deployment, kind).set(size)
        return super().collected()


class TextCounts(Loads):
    """Metrics of a replica with language models."""

    def __init__(self, replica: str, device: str) -> None:
        super().__init__(replica, "texts", "language_model", device)
        self._written = self.metric(Counter, "bae_ray_written_tokens", "Tokens written, steered and plain.")

    def wrote(self, tokens: int) -> None:
        """Count tokens that were written."""
        self._written.labels(self.replica).inc(tokens)


def gpu_memory(device: str) -> dict[str, int]:
    """Bytes of GPU memory by kind; empty on a CPU."""
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"free": free, "total": total, "kept": torch.cuda.memory_reserved()}
