"""How a sweep comes along, told from its folder alone: done, running, failed, time left, best."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from bae_ray.errors import InvalidInputError
from bae_ray.files import check_regular, read_text
from bae_ray.training.results import GRID_FILE, ILLEGAL_PREFIX, GridRecord, results
from bae_ray.training.run_folder import FAILURE_FILE, METRICS_FILE, RESULT_FILE, RUN_FILE, SEARCH_FILE, STOPPED, Failure

RUNNING_WITHIN_S = 120.0
"""A run that wrote metrics so recently counts as running."""
MAX_SHOWN = 8


class Status(NamedTuple):
    """A sweep at one moment."""

    planned: int
    finished: dict[str, float]
    """When each run was finished, in seconds since the epoch."""
    failed: dict[str, str]
    """Why."""
    stopped: int
    """By a search, since others did better."""
    running: dict[str, str]
    """How far."""
    illegal: int
    begun: float
    ended: bool

    @property
    def left(self) -> int:
        """Runs that are neither finished nor stopped nor failed."""
        return max(0, self.planned - len(self.finished) - len(self.failed) - self.stopped)

    def seconds_left(self) -> float | None:
        """At the rate since the sweep was begun; None where nothing was finished since."""
        since = [at for at in self.finished.values() if at >= self.begun]
        if not since or not self.left:
            return None if self.left else 0.0
        return self.left * (time.time() - self.begun) / len(since)


def status(folder: Path) -> Status:
    """Look at the folder of a sweep. Raises `InvalidInputError` where no sweep was begun."""
    grid = folder / GRID_FILE
    if not grid.exists():
        raise InvalidInputError(f"{folder} holds no sweep ({GRID_FILE} is missing): begin one with 'bae-ray sweep'.")
    record = GridRecord.model_validate_json(read_text(grid))
    drawn = [file.parent.name for file in folder.glob(f"*/{SEARCH_FILE}")] if record.drawn else []
    runs = sorted({*record.runs, *drawn})
    finished: dict[str, float] = {}
    failed: dict[str, str] = {}
    running: dict[str, str] = {}
    stopped = 0
    for run in runs:
        result, failure, metrics = (folder / run / name for name in (RESULT_FILE, FAILURE_FILE, METRICS_FILE))
        if result.exists():
            finished[run] = result.stat().st_mtime
        elif failure.exists():
            reason = Failure.model_validate_json(read_text(failure))
            if reason.error == STOPPED:
                stopped += 1
            else:
                failed[run] = reason.message
        elif metrics.exists() and time.time() - metrics.stat().st_mtime < RUNNING_WITHIN_S:
            running[run] = _progress(metrics)
    illegal = len(list(folder.glob(f"{ILLEGAL_PREFIX}*")))
    planned = max(len(record.runs), record.drawn)
    begun = grid.stat().st_mtime
    return Status(planned, finished, failed, stopped, running, illegal, begun, record.ended)


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


def _progress(metrics: Path) -> str:
    """Epoch and loss of the last whole line."""
    check_regular(metrics)
    with open(metrics, "rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4096))
        lines = [line for line in file.read().decode(errors="ignore").splitlines() if line.endswith("}")]
    try:
        last = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        return "begun"
    epochs = json.loads(read_text(metrics.with_name(RUN_FILE)))["training"]["epochs"]
    return f"epoch {last['epoch']} of {epochs}, loss {last['loss']:.4g}"


def _shown(seen: Status, folder: Path, best: str | None) -> Group:
    table = Table(title=str(folder), title_justify="left", show_header=False)
    left = seen.seconds_left()
    table.add_row("done", f"{len(seen.finished)} of {seen.planned}")
    table.add_row("running", str(len(seen.running)))
    if seen.stopped:
        table.add_row("stopped", f"{seen.stopped}, which did worse than others")
    table.add_row("failed", f"{len(seen.failed)}" + (f", and {seen.illegal} illegal" if seen.illegal else ""))
    table.add_row("time left", "-" if left is None else f"about {left / 60:.0f} min" if left > 90 else f"{left:.0f} s")
    if best is not None:
        table.add_row("best", best)
    for run, far in list(seen.running.items())[:MAX_SHOWN]:
        table.add_row(f"  {run}", far)
    for run, why in list(seen.failed.items())[:MAX_SHOWN]:
        table.add_row(f"  failed {run}", why.splitlines()[0])
    return Group(table, ProgressBar(total=max(seen.planned, 1), completed=len(seen.finished), width=60))


class _Best:
    """The best of the finished runs by a column, the smallest; each run is read once."""

    def __init__(self, folder: Path, column: str) -> None:
        self._folder, self._column = folder, column
        self._read: set[str] = set()
        self._row: pd.Series | None = None

    def among(self, finished: Iterable[str]) -> str | None:
        """The best run in words, None where none is finished."""
        if new := set(finished) - self._read:
            table = results(self._folder, only=new)
            if self._column not in table:
                raise InvalidInputError(f"best is {self._column}, which is no column: {', '.join(table.columns)}.")
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
