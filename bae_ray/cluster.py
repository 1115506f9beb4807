"""Connecting to Ray: to the cluster that RAY_ADDRESS names or that this machine belongs to, else to a new one."""

import logging

import ray


def connect() -> None:
    """Connect to Ray unless this process already is."""
    if ray.is_initialized():
        return
    for chatty in ("ray._private.authentication", "ray.data"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    ray.init(include_dashboard=False, logging_level=logging.WARNING)


def configure_data() -> None:
    """Ray Data settings of the project: rows keep their order, and progress is shown by us."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def total(resource: str) -> float:
    """How much of a resource ("CPU", "GPU") the cluster has."""
    return float(ray.cluster_resources().get(resource, 0))
