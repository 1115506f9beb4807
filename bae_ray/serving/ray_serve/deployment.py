"""Deployments of Ray Serve, and their replicas: how many there are, and where they listen."""

import math
from functools import partial
from typing import Any, cast

import ray
from ray import serve
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""The gateway logs every request itself, in more detail than Serve."""
DRAIN_LOOK_S = 1.0
"""How often a stopping replica checks whether its requests are finished."""
ACTOR = "SERVE_REPLICA::"
"""Prefix of the names of Serve's replicas among Ray's actors."""
EVERYWHERE = "[::]"
IDLE_S = 600.0
"""How long an idle replica is kept."""
EXPIRE_S = 60.0
"""How long a replica that is no longer needed may take to come up: it may never find a place."""


def deployed(replica: type, settings: Any, max_ongoing: int, drain_s: float) -> serve.Deployment:
    """A class as a deployment with the replicas of its config and `drain_s` to finish when they stop."""
    return serve.deployment(replica).options(  # pyright: ignore[reportFunctionMemberAccess]
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "initial_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_ongoing,
            "policy": {"policy_function": "bae_ray.serving.ray_serve.deployment:Expiring"},
            "downscale_delay_s": 0,  # the policy has delays of its own
            "downscale_to_zero_delay_s": 0,
        },
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        max_ongoing_requests=max_ongoing,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
        health_check_period_s=2,
        health_check_timeout_s=30,
    )


def own_id() -> str:
    """The id of this process's replica; empty outside of Serve."""
    try:
        return serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return ""


def living(handle: DeploymentHandle) -> set[str]:
    """The ids of a deployment's replicas that live or wait for a place. Ray notes a death before Serve does. Blocks."""
    prefix = f"{ACTOR}{handle.app_name}#{handle.deployment_name}#"
    actors = cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True))
    return {actor["name"].removeprefix(prefix) for actor in actors if actor["name"].startswith(prefix)}


def listen_like_ray() -> None:
    """Let this replica's server for other deployments listen where its Ray does.

    Call it in a deployment's constructor: Serve starts the server after that, on all addresses. If Ray itself listens
    at the loopback address only, as `cluster.connect` starts it, nobody else has to reach it.
    """
    here = ray.util.get_node_ip_address()
    if here.startswith("127."):
        replica.add_port_to_grpc_server = partial(_add_port, here)  # pyright: ignore[reportPrivateImportUsage]


def _add_port(here: str, server: Any, address: str) -> int:
    return add_port_to_grpc_server(server, address.replace(EVERYWHERE, here))


class Expiring:
    """Serve's own policy, by the requests under way; but a replica that does not come up is given up after a while.

    Serve goes on asking for a replica that found no place after its requests have gone. It would then take the place of
    another replica that dies.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number of replicas wanted."""
        desired, state = replica_queue_length_autoscaling_policy(context)
        running, asked = context.current_num_replicas, context.target_num_replicas
        if not running and not context.total_num_requests:
            desired = 0
        if math.ceil(desired) >= asked:
            self._since = None
            return desired, state
        now = float(context.current_time or 0)
        self._since = now if self._since is None else self._since
        wait_s = EXPIRE_S if running < asked else IDLE_S
        return (asked if now < self._since + wait_s else desired), state
