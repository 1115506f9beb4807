"""What a sweep leaves in its folder beside the runs: its record, the runs that cannot be, the table of results."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bae_ray.activations.layout import Cell
from bae_ray.config import content_hash
from bae_ray.files import write_text
from bae_ray.training.config import RunConfig
from bae_ray.training.grid import IllegalRun
from bae_ray.training.results import ILLEGAL_PREFIX, GridRecord, outcomes, write_parquet
from bae_ray.training.run_folder import (
    FAILURE_FILE,
    RUN_FILE,
    STOPPED,
    Failure,
    is_finished,
    read_failure,
    write_failure,
)

RESULTS_FILE = "results.parquet"
WORKER_DIED = "WorkerDied"
"""The `error` of a run whose worker died before it could write why."""


class SweepOutcome(NamedTuple):
    """What a sweep did."""

    runs: list[RunConfig]
    """Every run of the sweep."""
    finished: list[str]
    """Ids of those that are finished, now or before."""
    trained: int
    """How many of them were trained just now."""
    failures: list[str]
    """A line for each run that failed, or cannot be."""


def begin(out: Path, record: GridRecord, illegal: Sequence[IllegalRun]) -> None:
    """Write down what the sweep is of, for whoever watches."""
    record.write(out)
    for folder in out.glob(f"{ILLEGAL_PREFIX}*"):
        shutil.rmtree(folder)
    _record_illegal(out, illegal)


def conclude(
    out: Path, runs: Sequence[RunConfig], already: set[str], illegal: Sequence[IllegalRun], died: dict[str, str]
) -> SweepOutcome:
    """Write the table and say what was done; `died`: why runs failed that have no failure record."""
    finished = [run.id for run in runs if is_finished(out, run)]
    _record_illegal(out, illegal)
    for run in runs:
        if run.id in died and run.id not in finished and read_failure(out, run) is None:
            write_text(out / run.id / RUN_FILE, run.model_dump_json(indent=2) + "\n")
            write_failure(out, run, Failure(error=WORKER_DIED, message=died[run.id], cell=run.cell.model_dump()))
    write_parquet(outcomes(out, only=[run.id for run in runs]), out / RESULTS_FILE)
    GridRecord(runs=[run.id for run in runs], ended=True).write(out)
    failures = [f"{run}" for run in illegal]
    for run in runs:
        failure = read_failure(out, run)
        if run.id not in finished and (failure is None or failure.error != STOPPED):
            reason = failure.message if failure else "it was not reached"
            failures.append(f"run {run.id} ({cell_of(run)}): {reason}")
    return SweepOutcome(list(runs), finished, len(set(finished) - already), failures)


def cell_of(run: RunConfig) -> Cell:
    """The cell that a run is of."""
    return Cell(run.cell.layer, run.cell.site, run.cell.position)


def _record_illegal(out: Path, illegal: Sequence[IllegalRun]) -> None:
    """Write a directory for each run that cannot be."""
    for run in illegal:
        failure = Failure(error="Illegal", message=run.reason, cell=run.cell._asdict(), settings=dict(run.settings))
        name = ILLEGAL_PREFIX + content_hash([run.cell, run.settings])
        write_text(out / name / FAILURE_FILE, failure.model_dump_json(indent=2) + "\n")
