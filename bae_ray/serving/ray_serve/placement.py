"""Whether a replica that starts with the first request runs, or can be placed: else requests would wait in vain.

Serve is not asked for a replica that cannot be placed: the demand would stay in Ray's queue, and take the CPUs of an
encoders' replica that dies.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from bae_ray.cluster import only_machine
from bae_ray.serving.config import ReplicasConfig
from bae_ray.serving.ray_serve.deployment import living
from bae_ray.serving.time_limits import AwaitedCalls, SlowError

FRESH_S = 1.0
LOOK_S = 5.0
START_S = 30.0
"""If a replica is not up after this time and there is no room for it, it cannot be placed."""
NO_ACTOR = ""
"""Stands for a replica that Serve has not made an actor for yet."""
log = logging.getLogger("ray.serve")


class Replicas(NamedTuple):
    """The replicas of a deployment, as Serve counts them."""

    running: int
    starting: int


class Placement:
    """The replicas of a deployment, and the room for another one beside the deployments that come first."""

    def __init__(
        self, handle: DeploymentHandle, config: ReplicasConfig, first: Sequence[tuple[DeploymentHandle, ReplicasConfig]]
    ) -> None:
        self._handle, self._config, self._first = handle, config, first
        self._looked_at = float("-inf")
        self._refused: str | None = None
        self._first_seen: dict[str, float] = {}
        """When each replica that is starting was first seen."""
        self._calls = AwaitedCalls(LOOK_S)
        self._lock = asyncio.Lock()

    @property
    def is_lacking(self) -> bool:
        """Whether the last request found no replica, and no room for one."""
        return self._refused is not None

    async def refusal(self) -> str | None:
        """The reason why no replica can answer: none runs, and none can be placed. None if one may be asked."""
        async with self._lock:
            if time.monotonic() >= self._looked_at + FRESH_S:
                try:
                    self._refused = await self._calls.call(None, self._look)
                except (SlowError, TimeoutError, RayError, RayServeException):  # Serve's controller is being replaced
                    log.exception("it is not known whether a replica can be placed")
                    self._refused = None
                self._looked_at = time.monotonic()
            return self._refused

    def _look(self) -> str | None:
        own = replicas(self._handle)
        if own is None:
            return None
        now = time.monotonic()
        # By replica: one that starts now is not as old as one that was seen to start before, and is gone.
        starting = (living(self._handle) or {NO_ACTOR}) if own.starting and not own.running else ()
        self._first_seen = {replica: self._first_seen.get(replica, now) for replica in starting}
        if own.running or any(now < since + START_S for since in self._first_seen.values()):
            return None
        have = only_machine()
        if have is None:  # then a machine may come, which nobody would start if nothing were asked for
            return None
        free = ray.available_resources()
        kept = self._kept()
        for resource, need in self._config.needs.items():
            left = max(0.0, free.get(resource, 0.0) - kept[resource])
            if need > round(left, 4):
                return (
                    f"No replica of the language models runs, and none can be placed: it needs {need:g} {resource}s, "
                    f"and of the {have[resource]:g} here {left:g} are free."
                )
        return None

    def _kept(self) -> Mapping[str, float]:
        """Resources of the deployments that come first and do not run."""
        kept = {"CPU": 0.0, "GPU": 0.0}
        for handle, config in self._first:
            alive = len(living(handle))
            known = replicas(handle)
            running = alive if known is None else min(alive, known.running)
            missing = max(0, max(1, config.min_replicas) - running)
            kept = {resource: amount + missing * config.needs[resource] for resource, amount in kept.items()}
        return kept


def replicas(handle: DeploymentHandle) -> Replicas | None:
    """The replicas of a deployment; None while Serve builds its application anew."""
    application = serve.status().applications.get(handle.app_name)
    if application is None:
        return Replicas(0, 0)
    if (deployment := application.deployments.get(handle.deployment_name)) is None:
        return None
    counts = cast(dict[str, int], deployment.replica_states)
    return Replicas(counts.get("RUNNING", 0), counts.get("STARTING", 0))
