"""What a sweep leaves in its folder beside the runs, and its progress, read from its folder only."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bae_ray.activations.layout import Cell
from bae_ray.config import Record, content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.files import check_regular, read_text, remove_folder, write_text
from bae_ray.locations import shown
from bae_ray.training import run_folder
from bae_ray.training.config import RunConfig
from bae_ray.training.continuing import epochs_of, unconverged
from bae_ray.training.grid import IllegalRun
from bae_ray.training.results import ILLEGAL_PREFIX, outcomes, write_parquet
from bae_ray.training.run_folder import Failure, is_finished, read_failure
from bae_ray.working_copies import refresh

GRID_FILE = "grid.json"
"""The record of the last sweep in a folder."""
RESULTS_FILE = "results.parquet"
WORKER_DIED = "WorkerDied"
"""The `error` of a run whose worker died before it could write why."""
RUNNING_WITHIN_S = 120.0
"""A run that wrote metrics this recently counts as running."""


class GridRecord(Record):
    """The last sweep in a folder."""

    runs: list[str]
    """Ids of its runs; for a search those known at its beginning or end."""
    drawn: int = 0
    """Number of runs that a search draws."""
    ended: bool = False

    def write(self, out: Path) -> None:
        """Write the record, for whoever watches the folder."""
        write_text(out / GRID_FILE, self.model_dump_json() + "\n")


class SweepOutcome(NamedTuple):
    """What a sweep did."""

    runs: list[RunConfig]
    """Every run of the sweep."""
    finished: list[str]
    """Ids of those that are finished, now or before."""
    trained: int
    """How many of them were trained just now."""
    failures: list[str]
    """A line for each run that failed or is impossible."""
    unconverged: int = 0
    """How many of the finished ones did not converge."""


def begin(out: Path, record: GridRecord, illegal: Sequence[IllegalRun]) -> None:
    """Record the runs of the sweep, for `bae-ray watch`."""
    record.write(out)
    for folder in out.glob(f"{ILLEGAL_PREFIX}*"):
        remove_folder(folder)
    _record_illegal(out, illegal)


def conclude(
    out: Path, runs: Sequence[RunConfig], already: set[str], illegal: Sequence[IllegalRun], died: dict[str, str]
) -> SweepOutcome:
    """Write the table and return the outcome; `died`: why runs without a failure record failed."""
    refresh(out)
    finished = [run.id for run in runs if is_finished(out, run)]
    _record_illegal(out, illegal)
    for run in runs:
        if run.id in died and run.id not in finished and read_failure(out, run) is None:
            write_text(out / run.id / run_folder.RUN_FILE, run.model_dump_json(indent=2) + "\n")
            run_folder.write_failure(out, run, WORKER_DIED, died[run.id])
    write_parquet(outcomes(out, only=[run.id for run in runs]), out / RESULTS_FILE)
    GridRecord(runs=[run.id for run in runs], ended=True).write(out)
    failures = [f"{run}" for run in illegal]
    for run in runs:
        failure = read_failure(out, run)
        if run.id not in finished and (failure is None or failure.error != run_folder.STOPPED):
            reason = failure.message if failure else "it was not reached"
            failures.append(f"run {run.id} ({cell_of(run)}): {reason}")
    unfit = len(unconverged(out, runs))
    return SweepOutcome(list(runs), finished, len(set(finished) - already), failures, unfit)


def refresh_results(out: Path) -> None:
    """Rewrite the table of the last sweep in a folder, with measures made since then."""
    if (out / GRID_FILE).exists() and (out / RESULTS_FILE).exists():
        only = GridRecord.model_validate_json(read_text(out / GRID_FILE)).runs
        write_parquet(outcomes(out, only=only), out / RESULTS_FILE)


def cell_of(run: RunConfig) -> Cell:
    """The cell that a run is of."""
    return Cell(run.cell.layer, run.cell.site, run.cell.position)


def _record_illegal(out: Path, illegal: Sequence[IllegalRun]) -> None:
    """Write a directory for each run that cannot be."""
    for run in illegal:
        failure = Failure(error="Illegal", message=run.reason, cell=run.cell._asdict(), settings=dict(run.settings))
        name = ILLEGAL_PREFIX + content_hash([run.cell, run.settings])
        write_text(out / name / run_folder.FAILURE_FILE, failure.to_json())


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
        """Estimated seconds left, at the rate since the sweep began; None if nothing was finished since."""
        since = [at for at in self.finished.values() if at >= self.begun]
        if not since or not self.left:
            return None if self.left else 0.0
        return self.left * (time.time() - self.begun) / len(since)


def status(folder: Path) -> Status:
    """Look at the folder of a sweep. Raises `InvalidInputError` where no sweep was begun."""
    refresh(folder)
    grid = folder / GRID_FILE
    if not grid.exists():
        raise InvalidInputError(
            f"{shown(folder)} holds no sweep ({GRID_FILE} is missing): begin one with 'bae-ray sweep'."
        )
    record = GridRecord.model_validate_json(read_text(grid))
    drawn = [file.parent.name for file in folder.glob(f"*/{run_folder.SEARCH_FILE}")] if record.drawn else []
    runs = sorted({*record.runs, *drawn})
    finished: dict[str, float] = {}
    failed: dict[str, str] = {}
    running: dict[str, str] = {}
    stopped = 0
    for run in runs:
        names = (run_folder.RESULT_FILE, run_folder.FAILURE_FILE, run_folder.METRICS_FILE)
        result, failure, metrics = (folder / run / name for name in names)
        if result.exists():
            finished[run] = result.stat().st_mtime
        elif failure.exists():
            reason = Failure.model_validate_json(read_text(failure))
            if reason.error == run_folder.STOPPED:
                stopped += 1
            else:
                failed[run] = reason.message
        elif metrics.exists() and time.time() - metrics.stat().st_mtime < RUNNING_WITHIN_S:
            running[run] = _progress(metrics)
    illegal = len(list(folder.glob(f"{ILLEGAL_PREFIX}*")))
    planned = max(len(record.runs), record.drawn)
    begun = grid.stat().st_mtime
    return Status(planned, finished, failed, stopped, running, illegal, begun, record.ended)


def unfinished(folder: Path) -> str:
    """How many runs of the last sweep in a folder are finished, in words; empty if all are, or there is no sweep."""
    if not (folder / GRID_FILE).exists():
        return ""
    seen = status(folder)
    if len(seen.finished) + seen.stopped >= seen.planned:
        return ""
    failed = f", {len(seen.failed)} failed" if seen.failed else ""
    stopped = f", {seen.stopped} stopped by the search" if seen.stopped else ""
    return f"{len(seen.finished)} of {seen.planned} runs are finished{failed}{stopped}."


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
    run = RunConfig.model_validate_json(read_text(metrics.with_name(run_folder.RUN_FILE)))
    epochs = epochs_of(metrics.parent.parent, run)
    return f"epoch {last['epoch']} of {epochs}, loss {last['loss']:.4g}"
