"""A sweep on the terminal: what it would do; how far it is (done, running, failed, time left, best)."""

import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar

from bae_ray.errors import InvalidInputError
from bae_ray.locations import shown
from bae_ray.report.terminal import list_of
from bae_ray.training.resource_estimate import DryRun
from bae_ray.training.results import results
from bae_ray.training.sweep_folder import Status, status

MAX_SHOWN = 8


def print_plan(plan: DryRun, price_per_gpu_hour: float | None = None) -> None:
    """Print how much a sweep would do, for how long, for how much, and how large its results would be."""
    console = Console()
    console.print(list_of("Nothing is trained: what the sweep would do", plan_rows(plan, price_per_gpu_hour)))
    for reason in plan.illegal:
        console.print(f"illegal: {reason}", markup=False, highlight=False)


def plan_rows(plan: DryRun, price_per_gpu_hour: float | None = None) -> dict[str, str]:
    """What `print_plan` prints, by name."""
    left, measured, hours = plan.estimate, plan.measured, plan.gpu_hours
    rows = {
        "runs": f"{plan.runs} ({plan.finished} finished, {left.runs} to train in {left.packs} packs)",
        "illegal": str(len(plan.illegal)),
        "packs": plan.packing,
        "steps": f"{left.steps:,} of all runs" + (f", {left.steps / left.runs:,.0f} of each" if left.runs else ""),
        "measured": f"{measured.seconds_per_step * 1e3:.1f} ms per step of the largest pack on a "
        f"{'GPU' if hours is not None else 'CPU'}, {measured.peak_bytes / 1e9:.2f} GB of memory",
    }
    if hours is not None:
        rows["trainings"] = f"{hours:.2f} GPU-hours"
        on = f"{plan.gpus} GPUs, {plan.gpus_per_trial:.3g} GPU for each training"
    else:
        rows["trainings"] = f"{left.device_hours:.2f} worker-hours on CPUs"
        on = f"{plan.workers} workers"
    if price_per_gpu_hour is not None:
        rows["cost"] = (
            f"{hours * price_per_gpu_hour:,.2f} at {price_per_gpu_hour:g} per GPU-hour"
            if hours is not None
            else "not known: no GPU was found to measure a step on, and hours of a CPU do not tell those of a GPU"
        )
    return rows | {
        "wall time": f"about {plan.wall_hours:.2f} h on {on}",
        "disk": f"{left.disk_bytes / 1e9:.2f} GB",
    }


def watch(folder: Path, every: float, once: bool, best: str) -> None:
    """Show the status until the sweep has ended, or once."""
    console, finest = Console(), _Best(folder, best)
    if once:
        seen = status(folder)
        console.print(_shown(seen, folder, finest.among(seen.finished)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            seen = status(folder)
            live.update(_shown(seen, folder, finest.among(seen.finished)), refresh=True)
            if seen.ended:
                return
            time.sleep(every)


def _shown(seen: Status, folder: Path, best: str | None) -> Group:
    left = seen.seconds_left()
    rows = {
        "done": f"{len(seen.finished)} of {seen.planned}",
        "running": str(len(seen.running)),
        "stopped": f"{seen.stopped}, which did worse than others" if seen.stopped else "",
        "failed": f"{len(seen.failed)}" + (f", and {seen.illegal} illegal" if seen.illegal else ""),
        "time left": "-" if left is None else f"about {left / 60:.0f} min" if left > 90 else f"{left:.0f} s",
        "best": best or "",
        **{f"  {run}": far for run, far in list(seen.running.items())[:MAX_SHOWN]},
        **{f"  failed {run}": why.splitlines()[0] for run, why in list(seen.failed.items())[:MAX_SHOWN]},
    }
    table = list_of(shown(folder), {name: value for name, value in rows.items() if value})
    return Group(table, ProgressBar(total=max(seen.planned, 1), completed=len(seen.finished), width=60))


class _Best:
    """The finished run with the smallest value of a column; each run is read once."""

    def __init__(self, folder: Path, column: str) -> None:
        self._folder, self._column = folder, column
        self._read: set[str] = set()
        self._row: pd.Series | None = None

    def among(self, finished: Iterable[str]) -> str | None:
        """The best run in words; None where no run is finished."""
        if new := set(finished) - self._read:
            table = results(self._folder, only=new)
            if self._column not in table:
                raise InvalidInputError(
                    f"best is {self._column}, which is no column; expected one of {', '.join(table.columns)}."
                )
            self._read |= new
            row = table.iloc[int(table[self._column].argmin())]
            if self._row is None or row[self._column] < self._row[self._column]:
                self._row = row
        if self._row is None:
            return None
        row = self._row
        return (
            f"{self._column} {row[self._column]:.4g}: {row['entropy_bits']:.1f} bits, FVU {row['fvu_train']:.3f} on "
            f"training and {row['fvu_val']:.3f} on held-out texts, layer {row['layer']}, position {row['position']}, "
            f"run {row['run']}"
        )
