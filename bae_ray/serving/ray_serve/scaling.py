"""How many replicas Serve keeps."""

import math
from typing import Any

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext

IDLE_S = 600.0
"""A replica that is not needed is kept for so long."""
EXPIRE_S = 60.0
"""One that is not needed any more, and is not up yet either, for so long: it may never find a place."""


class Expiring:
    """Serve's own policy, by the requests under way, but what does not come up is not waited for for ever.

    Serve keeps asking for a replica that found no place after those who wanted it have gone; it then takes the place of
    another one that dies.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """How many replicas there are to be."""
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
