"""How far a sweep is, told from its folder alone."""

import json
import time
from pathlib import Path
from typing import NamedTuple

from bae_ray.errors import InvalidInputError
from bae_ray.files import check_regular, read_text
from bae_ray.training.results import GRID_FILE, ILLEGAL_PREFIX, GridRecord
from bae_ray.training.run_folder import FAILURE_FILE, METRICS_FILE, RESULT_FILE, RUN_FILE, SEARCH_FILE, STOPPED, Failure

RUNNING_WITHIN_S = 120.0
"""A run that wrote metrics so recently counts as running."""


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
