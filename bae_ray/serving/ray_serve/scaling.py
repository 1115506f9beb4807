"""The number of replicas: Serve's own policy, with an end to waiting."""

import math
from typing import Any

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext

IDLE_S = 600.0
"""How long an idle replica is kept."""
EXPIRE_S = 60.0
"""How long a replica that is no longer needed may take to come up: it may never find a place."""


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
