"""What is under way in a replica of the gateway: requests, and the memory that they hold, both within limits."""

from collections.abc import Iterator
from contextlib import contextmanager

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.monitoring.gateway_metrics import Metrics


class Load:
    """The requests under way and the bytes that they hold together; more than the limits is turned away."""

    def __init__(self, limits: LimitsConfig, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._requests = self._waiting = self._bytes = 0

    def check(self, size: int = 0) -> None:
        """Raise `overloaded` where no request of so many bytes can be counted in now."""
        if self._requests >= self._limits.max_inflight:
            raise Problem("overloaded", "There are too many requests under way.")
        self._check_bytes(size)

    def enter(self) -> None:
        """Count a request in. Raises `overloaded`."""
        self.check()
        self._requests += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Be a request whose body is not there yet, which takes nobody's place. Raises `overloaded`."""
        if self._waiting >= self._limits.max_waiting:
            raise Problem("overloaded", "There are too many requests whose bodies are not here yet.")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def leave(self) -> None:
        """Count a request out."""
        self._requests -= 1
        self._metrics.inflight(self._requests, self._bytes)

    @property
    def is_high(self) -> bool:
        """Whether half of what may be under way is, or waits for its bodies."""
        return 2 * max(self._requests, self._waiting) >= self._limits.max_inflight

    def add(self, size: int) -> None:
        """Count bytes in, or out where `size` is below 0. Raises `overloaded`."""
        if size > 0:
            self._check_bytes(size)
        self._bytes += size
        self._metrics.inflight(self._requests, self._bytes)

    def _check_bytes(self, size: int) -> None:
        if self._bytes + size > self._limits.max_inflight_bytes:
            raise Problem("overloaded", "The requests under way take all the memory there is for them.")


class HeldMemory:
    """The memory that one request holds, counted before it is taken: its body, the rows in it, its answer."""

    def __init__(self, load: Load) -> None:
        self.load, self.size = load, 0

    def take(self, size: int) -> None:
        """Hold so many bytes more. Raises `overloaded` where that is more than there is for all requests."""
        self.load.add(size)
        self.size += size

    def give_back(self, size: int | None = None) -> None:
        """Hold so many bytes less, or none any more."""
        size = self.size if size is None else size
        self.load.add(-size)
        self.size -= size


class Turns:
    """At most so many at a time."""

    def __init__(self, most: int) -> None:
        self._most, self.taken = most, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Be one of them. Raises `overloaded` where there are as many already."""
        if self.taken >= self._most:
            raise Problem("overloaded", "There are too many requests of this kind under way.")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
