"""The numbers of `meters` as Ray's own metrics, which each node of a cluster offers to Prometheus."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from bae_ray.meters import METERS, report_to


class RayMeters:
    """Tells this process's numbers to Ray."""

    def __init__(self) -> None:
        self._made: dict[str, Counter | Gauge] = {}

    def add(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """Count."""
        if amount > 0 and isinstance(counter := self._metric(name), Counter):
            counter.inc(amount, {**labels})

    def put(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set to a value."""
        if isinstance(gauge := self._metric(name), Gauge):
            gauge.set(value, {**labels})

    def _metric(self, name: str) -> Counter | Gauge:
        if name not in self._made:
            meter = METERS[name]
            kind = Counter if meter.kind == "counter" else Gauge
            self._made[name] = kind(name, meter.told, meter.labels)
        return self._made[name]


def report_to_ray() -> None:
    """From here on this process, which is connected to Ray or a worker of it, tells its numbers to Ray."""
    report_to(RayMeters())
