"""Executors by name."""

from pathlib import Path
from typing import Literal

from bae_ray.work.executor import Executor, Inline

ExecutorName = Literal["inline", "ray"]
"""inline: in this process, one unit after another, without Ray; ray: by workers of a cluster, or of this machine."""


def data_executor(given: Executor | ExecutorName) -> Executor:
    """The executor of that name; `ray` is a pool of Ray Data actors."""
    if given == "ray":
        from bae_ray.work.ray_data import RayData

        return RayData()
    return Inline() if given == "inline" else given


def tune_executor(given: Executor | ExecutorName, out: Path, retries: int) -> Executor:
    """The executor of that name; `ray` is Ray Tune, whose trials are begun again so many times. `out`: see there."""
    if given == "ray":
        from bae_ray.work.ray_tune import RayTune

        return RayTune(out, retries)
    return data_executor(given)
