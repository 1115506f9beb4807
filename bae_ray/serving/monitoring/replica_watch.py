"""The replicas of the service as Ray and Serve see them."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from ray import serve
from ray.serve.handle import DeploymentHandle

from bae_ray.serving.ray_serve.deployment import living
from bae_ray.serving.time_limits import AwaitedCalls

LATE_S = 30.0
"""A replica that is not up after this time waits for a place on a machine."""
LOOK_TIMEOUT_S = 5.0


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
