"""Workers of Ray that are asked to end: what Ray says of the machine that they are on, and what it is told of them."""

import ray
from ray._private.state import state
from ray.exceptions import RayActorError, RayError

from bae_ray.work.preemption import Preempted


class PreemptedWorkerError(RayActorError):
    """A worker ended because it was asked to. Tune begins its trial again and counts no failure."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(error_msg=f"the worker was asked to end: {reason}", preempted=True)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reason,)


def told_to_ray(error: Preempted) -> PreemptedWorkerError:
    """The error that Ray carries to the driver."""
    return PreemptedWorkerError(str(error))


def leaving() -> str:
    """Why the node of this worker of Ray goes away: it is drained, by hand, by an autoscaler or at its SIGTERM."""
    try:
        nodes = state.get_draining_nodes()  # as Ray Train asks; there is no public word for it
    except (RayError, RuntimeError):  # its head does not answer now
        return ""
    return "its node is drained" if ray.get_runtime_context().get_node_id() in nodes else ""
