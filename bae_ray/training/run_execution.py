"""Training the runs of a pack as one, and writing the folder of each."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError
from bae_ray.files import append_text, remove, write_text
from bae_ray.training import run_folder
from bae_ray.training.config import RunConfig
from bae_ray.training.continuing import kept_state, later_ends
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.measuring import Trained
from bae_ray.training.run_folder import RunResult, is_finished
from bae_ray.training.together import TrainingData, train_together
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
    while it wrote its results. The failure of a run is recorded in its folder and returned in its place. All of them
    fail, with one error, where a cell is damaged or memory runs out. Raises `OSError` where the file system fails.
    """
    unfinished = [run for run in together if not is_finished(runs, run)]
    logs = {run.id: MetricsLog(runs / run.id / run_folder.METRICS_FILE) for run in unfinished}
    failures: dict[str, Exception] = {}

    def log(number: int, lines: list[TrainingMetrics]) -> None:
        run = together[number]
        if run.id in logs:
            logs[run.id].append(lines)
            on_epoch(run, lines)

    def put_away(number: int, outcome: Trained | Exception) -> None:
        _put_away(together[number], outcome, failures, store, runs)

    for run in unfinished:
        write_text(runs / run.id / run_folder.RUN_FILE, run.model_dump_json(indent=2) + "\n")
        remove(runs / run.id / run_folder.FAILURE_FILE)
    if unfinished:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        members = [(run.autoencoder, run.training) for run in together]
        try:
            data, of = data_of_runs(together, store)
            later = later_ends(runs, together[0]) if len(together) == 1 else ()
            train_together(
                data, of, members, device, log, state, on_trained=put_away, progress=False, later=later,
                keep=lambda number: kept_state(runs, together[number]),
            )  # fmt: skip
        except OSError:
            raise
        except Exception as error:
            told = as_out_of_memory(error) or error
            for number, run in enumerate(together):
                if run.id not in failures and not is_finished(runs, run):
                    put_away(number, told)
    return [failures.get(run.id) or run_folder.read_result(runs, run) for run in together]


def _put_away(
    run: RunConfig, outcome: Trained | Exception, failures: dict[str, Exception], store: ActivationStore, runs: Path
) -> None:
    """Write the result or the failure of a run."""
    if isinstance(outcome, Exception):
        failures[run.id] = outcome
        run_folder.write_failure(runs, run, type(outcome).__name__, str(outcome), traceback_of(outcome))
    elif not is_finished(runs, run):
        run_folder.write_result(runs, run, store, outcome)


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


def data_of_runs(
    runs: Sequence[RunConfig], store: ActivationStore, first: int | None = None
) -> tuple[list[TrainingData], list[int]]:
    """What the runs are trained on, once for each cell, and the number of each run's; `first`: only so many samples."""
    cells: dict[str, RunConfig] = {}
    for run in runs:
        cells.setdefault(run.data, run)

    def data_of(run: RunConfig) -> TrainingData:
        x, target = activations_of(run, store)
        if first is None:
            return TrainingData(x, target, texts_of(run, store))
        some = torch.arange(first)
        return TrainingData(x.select(some), None if target is None else target.select(some))

    return [data_of(run) for run in cells.values()], [[*cells].index(run.data) for run in runs]


def activations_of(run: RunConfig, store: ActivationStore) -> tuple[Rows, Rows | None]:
    """What a run encodes, and what it reconstructs if that is something else."""
    x, target = (
        Rows(store.shards(cell.layer, cell.position, cell.site)) if cell else None for cell in (run.cell, run.target)
    )
    assert x is not None
    return x, target


def as_out_of_memory(error: Exception) -> OutOfMemoryError | None:
    """An `OutOfMemoryError` for an error of torch that means this; None for others."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    ):
        return OutOfMemoryError(
            f"memory ran out: {str(error).splitlines()[0]}. Lower expansion, d_latent or batch_size."
        )
    return None


def texts_of(run: RunConfig, store: ActivationStore) -> Tensor | None:
    """The text of each row of a run's cell, where a text has several."""
    return torch.from_numpy(store.rows["text_id"].to_numpy().copy()) if run.cell.position == "all" else None
