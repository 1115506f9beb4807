"""Wall time of a sweep on the demo's grid against the sum of its trials' training seconds divided by the workers.

The floor is what the trainings alone take when they are spread evenly over the cores, with nothing lost to scheduling,
starting workers, or writing. The trainings' seconds are each trial's own, measured inside it, in the same run.

    python benchmarks/sweep.py [--demo runs/demo]
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from bae_ray.activations.store import ActivationStore
from bae_ray.cluster import connect
from bae_ray.training.grid import SweepConfig
from bae_ray.training.results import results
from bae_ray.training.sweep import sweep


def main(demo: Path = Path("runs/demo")) -> None:
    """Run the grid of a finished demo anew and print the overhead."""
    file = demo / "config.json"
    if not file.exists():
        sys.exit(f"{demo} holds no finished demo: run 'make demo' first, or give --demo.")
    config = SweepConfig.model_validate(json.loads(file.read_text(encoding="utf-8"))["sweep"])
    connect()
    with tempfile.TemporaryDirectory() as out:
        started = time.monotonic()
        outcome = sweep(config, ActivationStore.open(demo / "store"), out)
        wall = time.monotonic() - started
        training = float(results(out)["seconds"].sum())
    workers = os.cpu_count() or 1
    floor = training / workers
    table = Table(title=f"{outcome.trained} trials on {workers} cores")
    for column in ("wall s", "training s / workers", "overhead", "overhead per trial s"):
        table.add_column(column, justify="right")
    per_trial = (wall * workers - training) / outcome.trained
    table.add_row(f"{wall:.1f}", f"{floor:.1f}", f"{wall / floor - 1:.1%}", f"{per_trial:.2f}")
    Console().print(table)
    print(json.dumps({"trials": outcome.trained, "workers": workers, "wall_s": wall, "training_s": training}))


if __name__ == "__main__":
    tyro.cli(main)
