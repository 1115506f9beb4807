"""What work counts for whoever watches it. Without somebody who takes the numbers, as in a notebook, they are dropped.

`ray_meters` takes them to Ray's metrics, with the prefix `ray_` and, of counters, the ending `_total`. Numbers are of
the process that tells them; sums over processes are for Prometheus. The service has series of its own
(`serving/monitoring`).
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol


class Meter(NamedTuple):
    """A number that is told."""

    kind: Literal["counter", "gauge"]
    told: str
    """What it means."""
    labels: tuple[str, ...] = ()


METERS = {
    "bae_ray_extracted_tokens": Meter("counter", "Tokens of the texts whose activations are extracted."),
    "bae_ray_shards": Meter("counter", "Shards of activations that have ended, by outcome.", ("outcome",)),
    "bae_ray_shards_left": Meter("gauge", "Shards that this extraction has still to do, once all texts are tokenised."),
    "bae_ray_trainings": Meter("counter", "Trainings that have ended: finished, failed or died.", ("outcome",)),
    "bae_ray_trainings_running": Meter("gauge", "Trainings under way in this worker."),
    "bae_ray_trainings_left": Meter("gauge", "Trainings that this sweep has still to do, those under way among them."),
    "bae_ray_training_steps": Meter("counter", "Training steps, each autoencoder's by itself."),
    "bae_ray_worker_busy": Meter("gauge", "1 while this worker does a unit of work, 0 between units.", ("device",)),
    "bae_ray_judge_waiting": Meter("gauge", "Questions for the judge that have no answer yet, those sent among them."),
    "bae_ray_judge_requests": Meter("counter", "Questions to the judge: sent, answered, retried, ...", ("kind",)),
}
"""By name."""


class Sink(Protocol):
    """Whoever takes the numbers."""

    def add(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """Count."""
        ...

    def put(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set to a value."""
        ...


_sink: Sink | None = None


def report_to(sink: Sink | None) -> None:
    """From here on this process tells its numbers to `sink`."""
    global _sink  # noqa: PLW0603 - one for the process, as with logging
    _sink = sink


def add(name: str, amount: float = 1, **labels: str) -> None:
    """Count; `name` is one of `METERS`."""
    if _sink is not None:
        _sink.add(name, amount, labels)


def put(name: str, value: float, **labels: str) -> None:
    """Set a gauge."""
    if _sink is not None:
        _sink.put(name, value, labels)


class Busy:
    """Tells whether any thread of a worker is at a unit."""

    def __init__(self, device: str) -> None:
        self._device, self._at_work, self._lock = device, 0, threading.Lock()

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Around a unit."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        with self._lock:
            self._at_work += by
            put("bae_ray_worker_busy", float(self._at_work > 0), device=self._device)
