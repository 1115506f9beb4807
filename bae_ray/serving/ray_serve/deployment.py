"""Deployments of Ray Serve, and their replicas."""

from typing import Any, cast

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""The gateway logs every request itself, in more detail than Serve."""
DRAIN_LOOK_S = 1.0
"""How often a stopping replica checks whether its requests are finished."""
ACTOR = "SERVE_REPLICA::"
"""Prefix of the names of Serve's replicas among Ray's actors."""


def deployed(replica: type, settings: Any, max_ongoing: int, drain_s: float) -> serve.Deployment:
    """A class as a deployment with the replicas of its config and `drain_s` to finish when they stop."""
    return serve.deployment(replica).options(  # pyright: ignore[reportFunctionMemberAccess]
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "initial_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_ongoing,
            "policy": {"policy_function": "bae_ray.serving.ray_serve.scaling:Expiring"},
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
