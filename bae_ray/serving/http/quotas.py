"""Quotas of keys: requests at a time, and requests in a minute."""

import math
import time
from collections import Counter
from collections.abc import Callable

from bae_ray.serving.http.keys import Caller
from bae_ray.serving.http.problems import Problem

MINUTE_S = 60.0


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
