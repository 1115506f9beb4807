"""Where the recorded tests find what has no public name: the only file to change when a module moves."""

import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import architectures
from bae_ray.cli.verbs import VERBS
from bae_ray.config import Config
from bae_ray.training.config import RunConfig
from bae_ray.training.draws import widest_runs
from bae_ray.training.grid import expand, plan_grid
from bae_ray.training.sweep_config import SweepConfig

__all__ = ["ARCHITECTURES", "ActivationStore", "SweepConfig", "expand", "plan_grid", "widest_runs"]

ARCHITECTURES = {name: one.config for name, one in architectures.ARCHITECTURES.items()}
JOBS = Path(__file__).parents[2] / "jobs"
NEW_NAMES = {"cpu": "laptop", "demo": "laptop"}
"""What presets that were recorded under another name are called."""


def verbs() -> list[str]:
    """The verbs of the command."""
    return list(VERBS)


class Experiment(NamedTuple):
    """An experiment of the paper."""

    presets: Mapping[str, Any]
    grid: Callable[[Any, ActivationStore], list[RunConfig]]
    """Every run of a preset's config over a store."""

    def preset(self, recorded: str) -> Config:
        """The preset that was recorded under this name."""
        return self.presets[recorded if recorded in self.presets else NEW_NAMES[recorded]]


def experiment(name: str) -> Experiment:
    """The experiment that `jobs/NAME.py` starts."""
    found = runpy.run_path(str(JOBS / f"{name}.py"))["EXPERIMENT"]
    room = sys.modules[type(found).__module__]
    return Experiment(found.presets, getattr(room, "grid", lambda config, store: expand(config.sweep, store)))
