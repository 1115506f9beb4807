"""Training runs of one cell as one, and writing the folder of each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError
from bae_ray.files import write_text
from bae_ray.training.config import CellConfig, RunConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.measuring import Trained
from bae_ray.training.metrics_log import MetricsLog
from bae_ray.training.run_folder import (
    FAILURE_FILE,
    METRICS_FILE,
    RUN_FILE,
    STATE_FILE,
    Failure,
    RunResult,
    is_finished,
    read_result,
    write_failure,
    write_result,
)
from bae_ray.training.trainer import train_many
from bae_ray.work.failures import traceback_of


def execute_run(
    run: RunConfig,
    store: ActivationStore,
    runs: Path,
    device: str | None = None,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> RunResult:
    """Train the run's autoencoder and write its folder `runs/<id>`; a finished run is only read.

    An interrupted run goes on from its last state. An error is recorded in the folder and raised again; an `OSError` is
    only raised, since another attempt may succeed. `on_epoch` is called with each finished epoch.
    """
    (outcome,) = execute_runs(
        [run], store, runs, runs / run.id / STATE_FILE, device, lambda _, lines: on_epoch(lines[-1].epoch)
    )
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def execute_runs(
    together: Sequence[RunConfig],
    store: ActivationStore,
    runs: Path,
    state: Path,
    device: str | None = None,
    on_epoch: Callable[[RunConfig, list[TrainingMetrics]], None] = lambda *_: None,
) -> list[RunResult | Exception]:
    """Train runs of one cell as one and write the folder of each; finished runs are never trained again.

    `state` is the file of their common state, from which an interrupted training goes on, even one that was killed
    while it wrote its results. The failure of a run is recorded in its folder and returned in its place. All of them
    fail where the cell is damaged or memory runs out. Raises `OSError` where the file system fails.
    """
    directories = _Directories(together, store, runs, on_epoch)
    if directories.unfinished:
        directories.begin()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            first = together[0]
            x, target = (_rows(store, cell) if cell else None for cell in (first.cell, first.target))
            assert x is not None
            members = [(run.autoencoder, run.training) for run in together]
            train_many(
                x, members, device, directories.log, target, state, on_trained=directories.put_away, progress=False
            )
        except OSError:
            raise
        except Exception as error:
            directories.fail(as_out_of_memory(error) or error)
    return directories.outcomes()


class _Directories:
    """Writes the folders of runs that are trained together; finished ones are not changed."""

    def __init__(
        self,
        together: Sequence[RunConfig],
        store: ActivationStore,
        runs: Path,
        on_epoch: Callable[[RunConfig, list[TrainingMetrics]], None],
    ) -> None:
        self._together, self._store, self._runs, self._on_epoch = together, store, runs, on_epoch
        self.unfinished = [run for run in together if not is_finished(runs, run)]
        self._logs = {
            number: MetricsLog(runs / run.id / METRICS_FILE)
            for number, run in enumerate(together)
            if run in self.unfinished
        }
        self._failures: dict[str, Exception] = {}

    def begin(self) -> None:
        """Write the config of each run."""
        for run in self.unfinished:
            write_text(self._runs / run.id / RUN_FILE, run.model_dump_json(indent=2) + "\n")
            (self._runs / run.id / FAILURE_FILE).unlink(missing_ok=True)

    def log(self, number: int, lines: list[TrainingMetrics]) -> None:
        """Write an epoch's metrics of one run."""
        if number in self._logs:
            self._logs[number].append(lines)
            self._on_epoch(self._together[number], lines)

    def put_away(self, number: int, outcome: Trained | Exception) -> None:
        """Write the result or the failure of one run."""
        run = self._together[number]
        if isinstance(outcome, Exception):
            self._failures[run.id] = outcome
            failure = Failure(
                error=type(outcome).__name__, message=str(outcome), cell=run.cell.model_dump(),
                traceback=traceback_of(outcome),
            )  # fmt: skip
            write_failure(self._runs, run, failure)
        elif not is_finished(self._runs, run):
            write_result(self._runs, run, self._store, outcome)

    def fail(self, error: Exception) -> None:
        """Write this failure for all runs without an outcome."""
        for number, run in enumerate(self._together):
            if not is_finished(self._runs, run) and run.id not in self._failures:
                self.put_away(number, error)

    def outcomes(self) -> list[RunResult | Exception]:
        """The result or the failure of each run."""
        return [self._failures.get(run.id) or read_result(self._runs, run) for run in self._together]


def as_out_of_memory(error: Exception) -> OutOfMemoryError | None:
    """An `OutOfMemoryError` for an error of torch that means this; None for others."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    ):
        return OutOfMemoryError(
            f"memory ran out: {str(error).splitlines()[0]}. Lower expansion, d_latent or batch_size."
        )
    return None


def _rows(store: ActivationStore, cell: CellConfig) -> Rows:
    return Rows(store.shards(cell.layer, cell.position, cell.site))
