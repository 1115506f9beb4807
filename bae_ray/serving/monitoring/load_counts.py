"""Metrics of a replica that loads encoders or language models: loads, evictions, GPU memory."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from prometheus_client import Counter, Gauge
from typing_extensions import override

from bae_ray.serving.monitoring.counts import Counted, Counts


class Loads(Counts):
    """Metrics of a replica that keeps a few loaded models."""

    def __init__(self, replica: str, deployment: str, label: str, device: str) -> None:
        """`label`: what is loaded, "encoder" or "language_model"."""
        super().__init__(replica)
        called = f"{label.replace('_', ' ')}s"
        self._device, self._deployment = device, deployment
        self._gone: deque[str] = deque()
        self._loads = Counter(
            f"bae_ray_{label}_loads", f"Loads of {called}, and whether they succeeded.",
            **self.labelled(label, "result"),
        )  # fmt: skip
        self._evictions = Counter(
            f"bae_ray_{label}_evictions", f"Times that {called} left the memory.", **self.labelled(label)
        )
        self._loaded = Gauge(f"bae_ray_loaded_{label}s", f"{called.capitalize()} in memory.", **self.labelled())
        self._loaded.labels(replica).set(0)
        self._gpu = Gauge(
            "bae_ray_gpu_memory_bytes", "Memory of the replica's GPU: free, total, and what its process keeps.",
            **self.labelled("deployment", "kind"),
        )  # fmt: skip

    @contextmanager
    def loading(self, name: str) -> Iterator[None]:
        """Around a load."""
        try:
            yield
        except Exception:
            self._loads.labels(self.replica, name, "failed").inc()
            raise
        self._loads.labels(self.replica, name, "loaded").inc()
        self._loaded.labels(self.replica).inc()

    def evicted(self, name: str) -> None:
        """Count an eviction. Takes no lock: the garbage collector may call it anywhere."""
        self._gone.append(name)

    @override
    def collected(self) -> Counted:
        """All metrics, with the GPU's memory now."""
        while self._gone:
            self._evictions.labels(self.replica, self._gone.popleft()).inc()
            self._loaded.labels(self.replica).dec()
        for kind, size in gpu_memory(self._device).items():
            self._gpu.labels(self.replica, self._deployment, kind).set(size)
        return super().collected()


def gpu_memory(device: str) -> dict[str, int]:
    """Bytes of GPU memory by kind; empty on a CPU."""
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"free": free, "total": total, "kept": torch.cuda.memory_reserved()}
