"""How many replicas Serve keeps: what does not come up is given up, what is idle is kept for a while."""

from typing import Any, cast

import pytest
from ray.serve.config import AutoscalingContext

from bae_ray.serving.ray_serve import deployment
from bae_ray.serving.ray_serve.deployment import EXPIRE_S, IDLE_S, Expiring


class Context:
    """What Serve tells a policy."""

    def __init__(self, now: float, running: int, target: int, requests: int) -> None:
        self.current_time, self.current_num_replicas, self.target_num_replicas = now, running, target
        self.total_num_requests = requests


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The policy, with Serve's own in it asking for a replica per request, and for as many as there are at least.

    As Serve's does, which waits for what it has asked for once, however long it does not come.
    """

    def serves_own(context: Any) -> tuple[float, dict[str, Any]]:
        wanted = context.total_num_requests
        return max(wanted, context.target_num_replicas if not context.current_num_replicas else wanted), {}

    monkeypatch.setattr(deployment, "replica_queue_length_autoscaling_policy", serves_own)
    made = Expiring()
    return lambda *told: made(cast(AutoscalingContext, Context(*told)))[0]


def test_demand_that_finds_no_place_expires(policy: Any):
    assert policy(0, 0, 0, 1) == 1, "a request asks for a replica"
    assert policy(10, 0, 1, 1) == 1
    assert policy(20, 0, 1, 0) == 1, "who wanted it has gone; it may still come"
    assert policy(20 + EXPIRE_S - 1, 0, 1, 0) == 1
    assert policy(20 + EXPIRE_S, 0, 1, 0) == 0, "it is waited for no more"


def test_a_request_meanwhile_begins_the_time_anew(policy: Any):
    assert policy(0, 0, 1, 0) == 1
    assert policy(EXPIRE_S - 1, 0, 1, 1) == 1
    assert policy(EXPIRE_S + 1, 0, 1, 0) == 1
    assert policy(2 * EXPIRE_S + 2, 0, 1, 0) == 0


def test_a_replica_that_is_up_is_kept_longer(policy: Any):
    assert policy(0, 1, 1, 0) == 1
    assert policy(IDLE_S - 1, 1, 1, 0) == 1
    assert policy(IDLE_S, 1, 1, 0) == 0
