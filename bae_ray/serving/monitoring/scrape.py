"""The page /metrics, whichever replica of the gateway is asked: the metrics and the states of all replicas."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from typing_extensions import override

from bae_ray.serving.monitoring.counts import Counted, merged
from bae_ray.serving.ray_serve.deployment import living
from bae_ray.serving.registry.entry import Entry, count
from bae_ray.serving.time_limits import AwaitedCalls, SlowError

LATE_S = 30.0
"""A replica that is not up after this time waits for a place on a machine."""
LOOK_TIMEOUT_S = 5.0
CONTENT_TYPE = CONTENT_TYPE_LATEST
FRESH_S = 0.5
"""Within this time the same page is given again: each one asks all replicas."""
TIMEOUT_S = 5.0
UNREACHED = (TimeoutError, RayError, RayServeException, SlowError)

log = logging.getLogger("ray.serve")


class States(NamedTuple):
    """How many replicas are in which state."""

    running: int
    silent: int
    """Serve takes them for running, and they do not answer."""
    starting: int
    unplaced: int
    """They wait for a place on a machine."""
    stopping: int


class ReplicaWatch:
    """The replicas, and since when each is there."""

    def __init__(
        self, deployments: Mapping[str, DeploymentHandle], is_lacking: Callable[[str], bool] = lambda _name: False
    ) -> None:
        """`deployments`: by their name in the metrics. `is_lacking`: whether one has no place, and is not asked for."""
        self._deployments, self._is_lacking = deployments, is_lacking
        self._calls = AwaitedCalls(LOOK_TIMEOUT_S)
        self._seen: dict[str, dict[str, float]] = {}
        """When each replica that lives was first seen."""

    async def new(self) -> dict[str, int]:
        """How many replicas of each deployment have come since the last look; none at the first.

        Raises `SlowError`, as `states` does, where Ray does not answer in time.
        """
        return await self._calls.call("new", self._new)

    async def states(self, up: Mapping[str, set[str]]) -> dict[str, States]:
        """The states of each deployment's replicas; `up`: those that answered."""
        return await self._calls.call("states", partial(self._states, up))

    def _new(self) -> dict[str, int]:
        now, came = time.monotonic(), {}
        for name, handle in self._deployments.items():
            here, before = living(handle), self._seen.get(name)
            came[name] = 0 if before is None else len(here - before.keys())
            self._seen[name] = {replica: (before or {}).get(replica, now) for replica in here}
        return came

    def _states(self, up: Mapping[str, set[str]]) -> dict[str, States]:
        applications, now, found = serve.status().applications, time.monotonic(), {}
        for name, handle in self._deployments.items():
            application = applications.get(handle.app_name)
            # While an application is built anew, Serve lists no deployments of it.
            deployment = application.deployments.get(handle.deployment_name) if application else None
            counts = Counter({str(state): n for state, n in deployment.replica_states.items()} if deployment else {})
            ages = {replica: now - since for replica, since in self._seen.get(name, {}).items()}
            found[name] = _states(counts, up.get(name, set()), ages, self._is_lacking(name))
        return found


def _states(counts: Counter[str], up: set[str], ages: Mapping[str, float], lacking: bool = False) -> States:
    """`counts`: replicas by Serve's state; `up`: those that answered; `ages`: seconds since each was first seen."""
    late = sum(age > LATE_S for replica, age in ages.items() if replica not in up)
    starting = counts["STARTING"]
    silent = max(0, counts["RUNNING"] - len(up))
    unplaced = min(max(0, late - silent), starting)
    return States(len(up), silent, starting - unplaced, unplaced + lacking, counts["STOPPING"])


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
        found = merged(counted.values(), encoders)
        statuses = count(encoders.values()).items()
        found.append(_gauge("bae_ray_encoders", "Encoders of the registry.", ["status"], statuses))
        up = {name: {each.replica for each in answer} for name, answer in zip(self._deployments, answers, strict=True)}
        try:
            states = await self._watch.states(up)
        except UNREACHED as error:  # Serve's controller is being replaced
            log.warning(f"the replicas' states are not known: {type(error).__name__}: {error}")
        else:
            counts = [(name, state, n) for name, of in states.items() for state, n in of._asdict().items()]
            found.append(_gauge("bae_ray_replicas", "Replicas by state.", ["deployment", "state"], counts))
        return generate_latest(_Families(found))


async def _ask(handle: DeploymentHandle) -> list[Counted]:
    """The metrics of the replicas that answer."""
    try:
        answers: list[Any] = await handle.broadcast("counted").results_async(
            timeout_s=TIMEOUT_S, return_exceptions=True
        )
    except UNREACHED:  # none runs
        return []
    return [answer for answer in answers if isinstance(answer, Counted)]


def _gauge(name: str, told: str, labels: list[str], values: Iterable[tuple[Any, ...]]) -> Metric:
    """A gauge; each of the values after its labels."""
    family = GaugeMetricFamily(name, told, labels=labels)
    for *labelled, n in values:
        family.add_metric(labelled, n)
    return family


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    @override
    def collect(self) -> Iterable[Metric]:
        return self._families
