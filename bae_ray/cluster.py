"""Connecting to Ray: to the cluster that RAY_ADDRESS names or that this machine belongs to, else to a new one."""

import json
import logging
import os
import sys
import time
import warnings
from functools import cache
from typing import Any

import ray
from ray._private import ray_constants, worker
from ray._private.worker import get_dashboard_url
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # pyright: ignore[reportAttributeAccessIssue] - generated
from ray.experimental.internal_kv import _internal_kv_get

from bae_ray.chatter import DASHBOARD, is_set, quiet_core, quieten
from bae_ray.errors import InvalidInputError
from bae_ray.ray_meters import report_to_ray

LOOPBACK_VARIABLE = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
"""Whether a Ray that is started here can be reached from other machines: Ray's own variable, whatever the system."""
REPORT_S = 15.0
"""How long the first report of Ray's monitor may take; it reports every 5 s."""
BLOCK_BYTES = 2 << 20
"""Of data that one task hands to others: small enough that a single file's texts keep all CPUs busy."""


def connect() -> None:
    """Connect to Ray unless this process already is.

    A Ray that starts here listens at the loopback address only, as Ray itself has it on macOS and Windows, unless
    `LOOPBACK_VARIABLE` is 1: nobody else is to join it. `ray start` starts one that others can join.
    """
    if not ray.is_initialized():
        _start_or_join()
    report_to_ray()


def _start_or_join() -> None:
    if LOOPBACK_VARIABLE not in os.environ:
        # Ray reads the variable when it is imported, and `ray start` in a child of this process must not have it.
        ray_constants.ENABLE_RAY_CLUSTER = False
    quieten()
    with quiet_core():
        ray.init(include_dashboard=is_set(DASHBOARD), logging_level=logging.WARNING)
    if is_set(DASHBOARD):
        url = get_dashboard_url()
        where = f"http://{url}" if url else "none: who started this Ray left it out"
        print(f"Dashboard: {where}. `ray get-auth-token` prints the token that it asks for.", file=sys.stderr)


def has_joined() -> bool:
    """Whether the Ray that this process is connected to is one that others have started."""
    node = worker._global_node  # noqa: SLF001 - Ray has no public word for it
    return node is not None and not node.is_head()


def configure_data(keep_order: bool = True, block_bytes: int = BLOCK_BYTES) -> None:
    """Ray Data settings of the project: rows keep their order unless it is of no use, and progress is shown by us."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = keep_order
    context.target_max_block_size = block_bytes
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # More tasks are allowed than a small corpus has work for.
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks for", UserWarning)


def check_fits(what: str, cpus: float, gpus: float) -> None:
    """Raise `InvalidInputError` where `what` needs more CPUs or GPUs than this machine has, and there is no other.

    On a cluster of several nodes, or with a head that takes no work, a node that fits may still come: Ray waits for it.
    """
    have = only_machine()
    if have is not None and (cpus > have["CPU"] or gpus > have["GPU"]):
        raise InvalidInputError(
            f"{what} needs {cpus:g} CPUs and {gpus:g} GPUs, but this machine has {have['CPU']:g} and {have['GPU']:g}. "
            "Ask for less, or join a cluster that has a larger node."
        )


def total(resource: str) -> float:
    """How much of a resource ("CPU", "GPU") the cluster has."""
    return float(ray.cluster_resources().get(resource, 0))


def only_machine() -> dict[str, float] | None:
    """The CPUs and GPUs ("CPU", "GPU") of the one machine that there is.

    None where others may still come: there are several, the head takes no work, or an autoscaler adds machines. None
    too where this process is not connected to Ray.
    """
    if not ray.is_initialized():
        return None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) != 1 or not (have := nodes[0]["Resources"]).get("CPU"):
        return None
    if has_joined() and _grows(nodes[0]["NodeID"]):
        return None
    return {resource: float(have.get(resource, 0)) for resource in ("CPU", "GPU")}


@cache
def _grows(node_id: str) -> bool:
    """Whether an autoscaler may add machines to the one of a cluster.

    Ray's monitor runs without an autoscaler too. It then gives each machine a type of its own, named by its id. A new
    cluster has no report yet: this waits for it, and where none comes, machines may.
    """
    if is_autoscaler_v2(fetch_from_server=True):
        client: Any = worker.global_worker
        status = GetClusterStatusReply.FromString(client.gcs_client.get_cluster_status())
        return any(node.ray_node_type_name for node in status.cluster_resource_state.node_states)
    until = time.monotonic() + REPORT_S
    while time.monotonic() < until:
        reported = json.loads(_internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS) or "{}")
        types = (reported.get("autoscaler_report") or {}).get("active_nodes")
        if types:
            return [*types] != [format_readonly_node_type(node_id)]
        time.sleep(0.2)
    return True
