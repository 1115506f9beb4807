"""Whether replicas that start with the first request are up or can be, so that nobody waits for what cannot come.

What cannot be placed is not asked of Serve either: demand that finds no place stays in Ray's queue, and takes the CPUs
of an encoders' replica which dies.
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
from bae_ray.serving.http.problems import Problem

FRESH_S = 1.0
LOOK_S = 5.0
START_S = 30.0
"""A replica that is not up after so long, and for which there is no room, has no place."""
RETRY_AFTER_S = 5
ALIVE = "SERVE_REPLICA::"
"""Begins the names of Serve's replicas among Ray's actors: those that live, or wait for a place."""


log = logging.getLogger("ray.serve")


class Replicas(NamedTuple):
    """A deployment as Serve sees it."""

    running: int
    starting: int


class Placement:
    """What there is of a deployment, and room for it beside those that come first."""

    def __init__(
        self,
        handle: DeploymentHandle,
        config: ReplicasConfig,
        first: Sequence[tuple[DeploymentHandle, ReplicasConfig]],
    ) -> None:
        self._handle, self._config, self._first = handle, config, first
        self._looked_at = float("-inf")
        self._refused: str | None = None
        self._starting_since: float | None = None
        self._lock = asyncio.Lock()

    @property
    def is_lacking(self) -> bool:
        """Whether the last request found no replica, and no room for one."""
        return self._refused is not None

    async def check(self) -> None:
        """Raise `unavailable` where no replica runs, and none can be placed now."""
        async with self._lock:
            if time.monotonic() >= self._looked_at + FRESH_S:
                try:
                    async with asyncio.timeout(LOOK_S):
                        self._refused = await asyncio.to_thread(self._look)
                except (TimeoutError, RayError, RayServeException):  # Serve's controller is being replaced
                    log.exception("it cannot be told what room there is")
                    self._refused = None
                self._looked_at = time.monotonic()
        if self._refused is not None:
            raise Problem("unavailable", self._refused, {"retry-after": str(RETRY_AFTER_S)})

    def _look(self) -> str | None:
        """Why there can be no replica."""
        own = replicas(self._handle)
        if own is None:
            return None
        now = time.monotonic()
        self._starting_since = None if own.running or not own.starting else self._starting_since or now
        if own.running or (self._starting_since is not None and now < self._starting_since + START_S):
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
        """What those take that come first and do not run."""
        kept = {"CPU": 0.0, "GPU": 0.0}
        actors = cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True))
        names = [actor["name"] for actor in actors]
        for handle, config in self._first:
            prefix = f"{ALIVE}{handle.app_name}#{handle.deployment_name}#"
            alive = sum(name.startswith(prefix) for name in names)  # Serve notes a death later than Ray
            known = replicas(handle)
            running = alive if known is None else min(alive, known.running)
            missing = max(0, max(1, config.min_replicas) - running)
            kept = {resource: amount + missing * config.needs[resource] for resource, amount in kept.items()}
        return kept


def replicas(handle: DeploymentHandle) -> Replicas | None:
    """How many of a deployment run, and start; None while its application is built anew and Serve does not say."""
    application = serve.status().applications.get(handle.app_name)
    if application is None:
        return Replicas(0, 0)
    if (deployment := application.deployments.get(handle.deployment_name)) is None:
        return None
    counts = cast(dict[str, int], deployment.replica_states)
    return Replicas(counts.get("RUNNING", 0), counts.get("STARTING", 0))
