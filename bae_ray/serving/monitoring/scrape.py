"""The page /metrics: the metrics of all replicas, whichever replica of the gateway is asked."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from typing_extensions import override

from bae_ray.serving.monitoring.counts import Counted, merged
from bae_ray.serving.monitoring.replica_watch import ReplicaWatch, States
from bae_ray.serving.registry.entry import Entry, count
from bae_ray.serving.time_limits import SlowError

CONTENT_TYPE = CONTENT_TYPE_LATEST
FRESH_S = 0.5
"""Within this time the same page is given again: each one asks all replicas."""
TIMEOUT_S = 5.0
UNREACHED = (TimeoutError, RayError, RayServeException, SlowError)

log = logging.getLogger("ray.serve")


class Scrape:
    """Collects the metrics of all replicas."""

    def __init__(
        self, own: Callable[[], Awaitable[Counted]], watch: ReplicaWatch, deployments: Mapping[str, DeploymentHandle]
    ) -> None:
        """`own`: the metrics of this replica. `deployments`: by their name in the metrics."""
        self._own, self._watch, self._deployments = own, watch, deployments
        self._lock = asyncio.Lock()
        self._page, self._made = b"", float("-inf")

    async def page(self, encoders: Mapping[str, Entry]) -> bytes:
        """The page. `encoders`: those of the registry."""
        async with self._lock:
            if time.monotonic() >= self._made + FRESH_S:
                self._page = await self._make(encoders)
                self._made = time.monotonic()
            return self._page

    async def _make(self, encoders: Mapping[str, Entry]) -> bytes:
        own = await self._own()
        answers = await asyncio.gather(*map(_ask, self._deployments.values()))
        counted = {each.replica: each for each in (*chain(*answers), own)}
        found = [*merged(counted.values(), encoders), _encoders(encoders.values())]
        up = {name: {each.replica for each in answer} for name, answer in zip(self._deployments, answers, strict=True)}
        try:
            states = await self._watch.states(up)
        except UNREACHED as error:  # Serve's controller is being replaced
            log.warning(f"the replicas' states are not known: {type(error).__name__}: {error}")
        else:
            found.append(_replicas(states))
        registry = CollectorRegistry()
        registry.register(_Families(found))
        return generate_latest(registry)


async def _ask(handle: DeploymentHandle) -> list[Counted]:
    """The metrics of the replicas that answer."""
    try:
        answers: list[Any] = await handle.broadcast("counted").results_async(
            timeout_s=TIMEOUT_S, return_exceptions=True
        )
    except UNREACHED:  # none runs
        return []
    return [answer for answer in answers if isinstance(answer, Counted)]


def _encoders(entries: Iterable[Entry]) -> Metric:
    """How many encoders of the registry are ready, and how many broken."""
    family = GaugeMetricFamily("bae_ray_encoders", "Encoders of the registry.", labels=["status"])
    for status, n in count(entries).items():
        family.add_metric([status], n)
    return family


def _replicas(states: Mapping[str, States]) -> Metric:
    family = GaugeMetricFamily("bae_ray_replicas", "Replicas by state.", labels=["deployment", "state"])
    for name, counts in states.items():
        for state, n in counts._asdict().items():
            family.add_metric([name, state], n)
    return family


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    @override
    def collect(self) -> Iterable[Metric]:
        return self._families
