"""A class as a deployment of Ray Serve."""

from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException

LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""The gateway has a line for every request that says more than Serve's."""
DRAIN_LOOK_S = 1.0
"""How often a replica that stops looks whether its requests are finished."""


def deployed(replica: type, settings: Any, max_ongoing: int, drain_s: float) -> serve.Deployment:
    """A class as a deployment with the replicas of its config, which are given `drain_s` to finish when they stop."""
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
    """The id of the replica that this process is; outside of Serve, nothing."""
    try:
        return serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return ""
