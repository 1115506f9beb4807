"""One side of the sweep's benchmark as a process of its own: a sweep on so many CPUs, or the trainings of one cell.

python benchmarks/sweep_sides.py sweep SWEEP.json STORE OUT CPUS     prints what it took as JSON
python benchmarks/sweep_sides.py train RUNS.json STORE OUT           one after another, as the released code does
"""

import json
import logging
import sys
import threading
import time
from pathlib import Path

import psutil

from bae_ray.activations.store import ActivationStore
from bae_ray.training.config import RunConfig
from bae_ray.training.run_execution import execute_run
from bae_ray.training.sweep_config import SweepConfig

BETWEEN_LOOKS_S = 1.0


def run_sweep(config: SweepConfig, store: Path, out: Path, cpus: int) -> dict[str, object]:
    """Wall seconds of a sweep with Ray already up, and every second its finished runs and the driver's memory."""
    import ray

    from bae_ray.training.results import results
    from bae_ray.training.sweep import sweep

    ray.init(num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    opened, process, ended = ActivationStore.open(store), psutil.Process(), threading.Event()
    looks: list[tuple[float, int, float]] = []
    started = time.monotonic()

    def look() -> None:
        while not ended.wait(BETWEEN_LOOKS_S):
            finished = sum(1 for _ in out.glob("*/result.json"))
            looks.append((time.monotonic() - started, finished, process.memory_info().rss / 1e6))

    watcher = threading.Thread(target=look)
    watcher.start()
    outcome = sweep(config, opened, out)
    wall = time.monotonic() - started
    ended.set()
    watcher.join()
    before = time.monotonic()
    table = results(out)
    return {
        "wall": wall, "runs": outcome.trained, "training": float(table["seconds"].sum()), "looks": looks,
        "table": time.monotonic() - before,
    }  # fmt: skip


def train_apart(runs: list[RunConfig], store: Path, out: Path) -> dict[str, object]:
    """Train runs one after another on one thread."""
    import torch

    torch.set_num_threads(1)
    opened = ActivationStore.open(store)
    return {"training": sum(execute_run(run, opened, out, "cpu").seconds for run in runs)}


if __name__ == "__main__":
    side, config_file, store_path, out_path, *rest = sys.argv[1:]
    text = Path(config_file).read_text(encoding="utf-8")
    if side == "sweep":
        took = run_sweep(SweepConfig.model_validate_json(text), Path(store_path), Path(out_path), int(rest[0]))
    else:
        runs = [RunConfig.model_validate(run) for run in json.loads(text)]
        took = train_apart(runs, Path(store_path), Path(out_path))
    print(json.dumps(took))
