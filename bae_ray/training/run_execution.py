"""Training the runs of a pack as one, and writing the folder of each."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError
from bae_ray.files import append_text, remove, write_text
from bae_ray.training import run_folder
from bae_ray.training.config import RunConfig
from bae_ray.training.continuing import kept_state, later_ends
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.measuring import Trained
from bae_ray.training.pack_data import data_of_runs
from bae_ray.training.run_folder import RunResult, is_finished
from bae_ray.training.together import train_together
from bae_ray.work.receipts import traceback_of


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
        [run], store, runs, runs / run.id / run_folder.STATE_FILE, device, lambda _, lines: on_epoch(lines[-1].epoch)
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
    """Train runs as one and write the folder of each; finished runs are never trained again.

    `state` is the file of their common state, from which an interrupted training goes on, even one that was killed
    while it wrote its results. The failure of a run is recorded in its folder and returned in its place; where memory
    runs out, all of them have one error. Raises `OSError` where the file system fails.
    """
    unfinished = [run for run in together if not is_finished(runs, run)]
    failures: dict[str, Exception] = {}
    if unfinished:
        folders = _Folders(unfinished, store, runs, failures, on_epoch)
        try:
            _train(together, store, runs, state, device, folders)
        except OSError:
            raise
        except Exception as error:
            folders.fail_others(as_out_of_memory(error) or error)
    return [failures.get(run.id) or run_folder.read_result(runs, run) for run in together]


def _train(
    together: Sequence[RunConfig],
    store: ActivationStore,
    runs: Path,
    state: Path,
    device: str | None,
    folders: "_Folders",
) -> None:
    cells = data_of_runs(together, store)
    for run in together:
        if run.place in cells.failed:
            folders.put_away(run, cells.failed[run.place])
    trained = [run for run in together if run.place in cells.numbers]
    if trained:
        train_together(
            cells.data,
            [cells.numbers[run.place] for run in trained],
            [(run.autoencoder, run.training) for run in trained],
            device or ("cuda" if torch.cuda.is_available() else "cpu"),
            lambda number, lines: folders.log(trained[number], lines),
            state,
            on_trained=lambda number, outcome: folders.put_away(trained[number], outcome),
            progress=False,
            later=later_ends(runs, together[0]) if len(together) == 1 else (),
            keep=lambda number: kept_state(runs, trained[number]),
        )


class _Folders:
    """The folders of runs that are not finished: their metrics, and their results or failures.

    Finished runs, which are trained with them for equal numbers, are left as they are.
    """

    def __init__(
        self,
        unfinished: Sequence[RunConfig],
        store: ActivationStore,
        runs: Path,
        failures: dict[str, Exception],
        on_epoch: Callable[[RunConfig, list[TrainingMetrics]], None],
    ) -> None:
        self._unfinished, self._store, self._runs, self._on_epoch = unfinished, store, runs, on_epoch
        self._failures = failures
        self._logs = {run.id: MetricsLog(runs / run.id / run_folder.METRICS_FILE) for run in unfinished}
        for run in unfinished:
            write_text(runs / run.id / run_folder.RUN_FILE, run.model_dump_json(indent=2) + "\n")
            remove(runs / run.id / run_folder.FAILURE_FILE)

    def log(self, run: RunConfig, lines: list[TrainingMetrics]) -> None:
        """Add the metrics of an epoch."""
        if run.id in self._logs:
            self._logs[run.id].append(lines)
            self._on_epoch(run, lines)

    def put_away(self, run: RunConfig, outcome: Trained | Exception) -> None:
        """Write the result or the failure of a run."""
        if is_finished(self._runs, run):
            return
        if isinstance(outcome, Exception):
            self._failures[run.id] = outcome
            told = type(outcome).__name__, str(outcome), traceback_of(outcome)
            run_folder.write_failure(self._runs, run, *told)
        else:
            run_folder.write_result(self._runs, run, self._store, outcome)

    def fail_others(self, error: Exception) -> None:
        """Write the failure of all that have neither result nor failure."""
        for run in self._unfinished:
            if run.id not in self._failures:
                self.put_away(run, error)


class MetricsLog:
    """Writes metrics.jsonl, a line per epoch or per step. A resumed training replaces the lines after its state."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._continued = False

    def append(self, lines: list[TrainingMetrics]) -> None:
        """Add the lines of one epoch."""
        text = "".join(json.dumps(line.row()) + "\n" for line in lines)
        if not self._continued:
            self._continued = True
            before = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
            # A line that the interruption cut short belongs to an epoch that is trained again.
            kept = [line for line in before if line.endswith("}") and json.loads(line)["epoch"] < lines[0].epoch]
            write_text(self._path, "".join(line + "\n" for line in kept))
        append_text(self._path, text)


def as_out_of_memory(error: Exception) -> OutOfMemoryError | None:
    """An `OutOfMemoryError` for an error of torch that means this; None for others."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    ):
        return OutOfMemoryError(
            f"memory ran out: {str(error).splitlines()[0]}. Lower expansion, d_latent or batch_size."
        )
    return None
