"""Limits: of requests under way, bodies that are coming in and the memory of both in a gateway's replica; of keys."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http.keys import Caller
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.monitoring.counts import Metrics

MINUTE_S = 60.0


@dataclass(eq=False)
class Arrival:
    """A body that is coming in."""

    caller: str
    """Whose share of the places it uses."""
    started: float
    size: int = 0
    """Bytes received."""


class Load:
    """The requests under way and the memory they hold. More than the limits is refused."""

    def __init__(self, limits: LimitsConfig, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._requests = self._bytes = 0
        self._arriving: set[Arrival] = set()
        self._shares: Counter[str] = Counter()
        """Number of these by caller."""

    def check(self, size: int = 0) -> None:
        """Raise `overloaded` if a request of so many bytes would exceed a limit."""
        if self._requests >= self._limits.max_inflight:
            raise Problem("overloaded", "There are too many requests under way.")
        self._check_bytes(size)

    def enter(self) -> None:
        """Count a request in. Raises `overloaded`."""
        self.check()
        self._requests += 1

    @contextmanager
    def waiting(self, arrival: Arrival) -> Iterator[None]:
        """Around the reading of a body: until all of it is here, the request only waits.

        A caller may have no more waiting requests than there are free places. Raises `overloaded`.
        """
        left = self._limits.max_waiting - len(self._arriving)
        if self._shares[arrival.caller] >= left:
            raise Problem("overloaded", "There are too many requests whose bodies are not here yet.")
        self._arriving.add(arrival)
        self._shares[arrival.caller] += 1
        try:
            yield
        finally:
            self._arriving.remove(arrival)
            self._shares[arrival.caller] -= 1
            if not self._shares[arrival.caller]:
                del self._shares[arrival.caller]

    def leave(self) -> None:
        """Count a request out."""
        self._requests -= 1
        self._metrics.inflight(self._requests, self._bytes)

    def is_busy(self, now: float) -> bool:
        """Whether the service has much to do: half of `max_inflight` requests are worked on, or come in fast enough.

        Bodies that have stopped do not count: they cost the service no time.
        """
        half = self._limits.max_inflight / 2
        if self._requests >= half:
            return True
        rate = self._limits.min_body_rate
        fast = (arrival for arrival in self._arriving if arrival.size >= rate * (now - arrival.started))
        return sum(1 for _ in islice(fast, math.ceil(half))) >= half

    def add(self, size: int) -> None:
        """Count bytes in, or out if `size` is negative. Raises `overloaded`."""
        if size > 0:
            self._check_bytes(size)
        self._bytes += size
        self._metrics.inflight(self._requests, self._bytes)

    def _check_bytes(self, size: int) -> None:
        if self._bytes + size > self._limits.max_inflight_bytes:
            raise Problem("overloaded", "The requests under way take all the memory there is for them.")


class HeldMemory:
    """The memory that one request holds, counted before it is used: body, rows, answer."""

    def __init__(self, load: Load) -> None:
        self.load, self.size = load, 0

    def take(self, size: int) -> None:
        """Reserve memory. Raises `overloaded` if there is not enough for all requests."""
        self.load.add(size)
        self.size += size

    def give_back(self, size: int | None = None) -> None:
        """Release memory, by default all of it."""
        size = self.size if size is None else size
        self.load.add(-size)
        self.size -= size


class Turns:
    """A limit on calls at the same time."""

    def __init__(self, most: int) -> None:
        self._most, self.taken = most, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a call. Raises `overloaded` if the limit is reached."""
        if self.taken >= self._most:
            raise Problem("overloaded", "There are too many requests of this kind under way.")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Quotas:
    """The requests of each key to a replica of the gateway. Keys of one name share a quota."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way: Counter[str] = Counter()
        self._left: dict[str, tuple[float, float]] = {}
        """Requests that a key may send now, and the time of that count."""

    def enter(self, caller: Caller) -> None:
        """Count a request in. Raises `overloaded` if it exceeds the quota."""
        if caller.inflight is not None and self._under_way[caller.name] >= caller.inflight:
            raise Problem("overloaded", f"This key has {caller.inflight} requests under way, as many as it may.")
        if caller.per_minute is not None:
            self._take(caller.name, caller.per_minute)
        self._under_way[caller.name] += 1

    def leave(self, caller: Caller) -> None:
        """Count a request out."""
        self._under_way[caller.name] -= 1

    def _take(self, name: str, per_minute: int) -> None:
        """Take one request of a minute's quota, which refills evenly (a token bucket)."""
        now, each_s = self._clock(), MINUTE_S / per_minute
        left, at = self._left.get(name, (float(per_minute), now))
        left = min(float(per_minute), left + (now - at) / each_s)
        if left < 1:
            self._left[name] = left, now
            wait_s = math.ceil((1 - left) * each_s)
            raise Problem(
                "overloaded", f"This key may send {per_minute} requests a minute.", {"retry-after": str(wait_s)}
            )
        self._left[name] = left - 1, now
