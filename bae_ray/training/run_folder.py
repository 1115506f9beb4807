"""One run: a trained autoencoder's directory.

run.json            the RunConfig that determines it
metrics.jsonl       a line per epoch, or per step
state.safetensors   while it is trained: where to go on after an interruption
config.json, model.safetensors     the autoencoder
result.json         written last: the measures; a run without it is unfinished
failure.json        instead of it, where training failed: the reason
search.json         of a run whose settings a search has drawn: these
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import spectral_norm
from bae_ray.autoencoders import ArchitectureConfig, check_architecture
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError, OutOfMemoryError
from bae_ray.files import read_text, write_text
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.objective import SCHEDULED
from bae_ray.training.trainer import Trained, train_many

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
STATE_FILE = "state.safetensors"
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
SEARCH_FILE = "search.json"
STOPPED = "Stopped"
"""The `error` of a run that a search has stopped early."""


class RunResult(BaseModel):
    """The measures of one finished run: a row of every table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    layer: int
    site: str
    position: Position
    n_train: int
    n_val: int
    d_in: int
    d_latent: int
    entropy_bits: float
    """Over all n, as in the paper."""
    entropy_low: float
    """Ends of its 95 % interval, a bootstrap over the samples (analysis/sampling.py)."""
    entropy_high: float
    entropy_bias: float
    """How much too low it is on average, since firing rates are estimated from n samples."""
    subset_n: tuple[int, ...]
    """Sizes of nested random subsets of the samples, and the entropy over each."""
    subset_bits: tuple[float, ...]
    fvu_train: float
    fvu_val: float
    mse_val: float
    cosine_val: float
    """Centred."""
    l0: float
    """Over all n, as are the next two."""
    dead: float
    dense: float
    spectral_norm: float
    """Of the covariance of the dictionary's rows (the paper's Table 1)."""
    seed: int
    run: str
    seconds: float


class Failure(BaseModel):
    """Why a run has no result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: str
    """Name of the error's type."""
    message: str
    cell: dict[str, Any]
    settings: dict[str, Any] = {}
    """Of a run that cannot be, and so has no config: its values on the grid's axes."""


def plan_run(
    store: ActivationStore, cell: Cell, autoencoder: ArchitectureConfig, training: TrainingConfig
) -> RunConfig:
    """The config of a run on one cell of a store, with everything taken from the data filled in.

    Raises `InvalidInputError` where the store lacks the cell that a transcoder is to reconstruct, or the widths do not
    go together.
    """
    data = store.fingerprint(cell)
    target = None
    if (place := autoencoder.target_cell(cell.layer, cell.site)) is not None:
        target = Cell(*place, cell.position)
        if target not in store.cells:
            raise InvalidInputError(
                f"the transcoder is to reconstruct the cell ({target}), which {store.folder} does not hold. Set "
                "autoencoder.target_site and target_layer_offset to what it holds, such as residual and 1: the next "
                "layer's hidden state."
            )
        data = content_hash([data, store.fingerprint(target)])
    filled = autoencoder.model_copy(update={"d_in": autoencoder.d_in or store.manifest.d})
    check_architecture(filled)
    return RunConfig(
        cell=CellConfig(**cell._asdict()),
        target=CellConfig(**target._asdict()) if target else None,
        data=data,
        autoencoder=filled,
        training=training,
    )


def is_finished(runs: Path, run: RunConfig) -> bool:
    """Whether this run's result is there."""
    return (runs / run.id / RESULT_FILE).exists()


def read_failure(runs: Path, run: RunConfig) -> Failure | None:
    """Why the last attempt at this run failed, if it left word."""
    file = runs / run.id / FAILURE_FILE
    return Failure.model_validate_json(read_text(file)) if file.exists() else None


def execute_run(
    run: RunConfig,
    store: ActivationStore,
    runs: Path,
    device: str | None = None,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> RunResult:
    """Train the run's autoencoder and write its directory `runs/<id>`; a run that is finished is only read.

    An interrupted run goes on from its last state. Whatever goes wrong is recorded in the directory and raised again;
    but errors of the file system, which another attempt may not meet, are only raised.
    `on_epoch` is told each finished epoch.
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
    """Train runs of one cell as one and write the directory of each; what is finished is never trained again.

    `state` is the file of their common state, from which an interrupted training goes on: also one that was killed
    while its results were written. A run that fails gets its reason in its directory and in its place here; so do all
    where the cell is damaged or memory runs out. Raises `OSError` where the file system fails.
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
    """Writes the directories of runs that are trained together; those that were finished before are left alone."""

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
            number: _MetricsLog(runs / run.id / METRICS_FILE)
            for number, run in enumerate(together)
            if run in self.unfinished
        }
        self._failures: dict[str, Exception] = {}

    def begin(self) -> None:
        """Write what each run is."""
        for run in self.unfinished:
            write_text(self._runs / run.id / RUN_FILE, run.model_dump_json(indent=2) + "\n")
            (self._runs / run.id / FAILURE_FILE).unlink(missing_ok=True)

    def log(self, number: int, lines: list[TrainingMetrics]) -> None:
        """Write an epoch's metrics of one run."""
        if number in self._logs:
            self._logs[number].append(lines)
            self._on_epoch(self._together[number], lines)

    def put_away(self, number: int, outcome: Trained | Exception) -> None:
        """Write what came of one run."""
        run = self._together[number]
        if isinstance(outcome, Exception):
            self._failures[run.id] = outcome
            failure = Failure(error=type(outcome).__name__, message=str(outcome), cell=run.cell.model_dump())
            write_failure(self._runs, run, failure)
        elif not is_finished(self._runs, run):
            _write_result(self._runs, run, self._store, outcome)

    def fail(self, error: Exception) -> None:
        """Write why all that have no outcome yet have none."""
        for number, run in enumerate(self._together):
            if not is_finished(self._runs, run) and run.id not in self._failures:
                self.put_away(number, error)

    def outcomes(self) -> list[RunResult | Exception]:
        """What came of each run."""
        return [self._failures.get(run.id) or read_result(self._runs, run) for run in self._together]


def read_result(runs: Path, run: RunConfig) -> RunResult:
    """The result of a finished run."""
    return RunResult.model_validate_json(read_text(runs / run.id / RESULT_FILE))


def as_out_of_memory(error: Exception) -> OutOfMemoryError | None:
    """The same error by its own name, if torch ran out of memory; on a CPU it says so in words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    ):
        return OutOfMemoryError(
            f"memory ran out: {str(error).splitlines()[0]}. Lower expansion, d_latent or batch_size."
        )
    return None


def write_failure(runs: Path, run: RunConfig, failure: Failure) -> None:
    """Write down why a run has no result."""
    write_text(runs / run.id / FAILURE_FILE, failure.model_dump_json(indent=2) + "\n")


def _write_result(runs: Path, run: RunConfig, store: ActivationStore, trained: Trained) -> None:
    """Write the autoencoder, then the result, which makes the run finished."""
    trained.autoencoder.save_pretrained(runs / run.id)
    result = RunResult(
        model=str(store.manifest.request.model["name"]),
        layer=run.cell.layer,
        site=run.cell.site,
        position=run.cell.position,
        n_train=trained.train.n,
        n_val=trained.val.n,
        d_in=trained.autoencoder.d_in,
        d_latent=trained.autoencoder.d_latent,
        entropy_bits=trained.all.entropy_bits,
        entropy_low=trained.entropy.low,
        entropy_high=trained.entropy.high,
        entropy_bias=trained.entropy.bias,
        subset_n=trained.entropy.subset_n,
        subset_bits=trained.entropy.subset_bits,
        fvu_train=trained.train.fvu,
        fvu_val=trained.val.fvu,
        mse_val=trained.val.mse,
        cosine_val=trained.val.cosine_centred,
        l0=trained.all.l0,
        dead=trained.all.dead,
        dense=trained.all.dense,
        spectral_norm=spectral_norm(trained.autoencoder.W_dec.detach()),
        seed=run.training.seed,
        run=run.id,
        seconds=trained.seconds,
    )
    write_text(runs / run.id / RESULT_FILE, result.model_dump_json(indent=2) + "\n")


def _rows(store: ActivationStore, cell: CellConfig) -> Rows:
    return Rows(store.shards(cell.layer, cell.position, cell.site))


class _MetricsLog:
    """metrics.jsonl: a line per epoch or step. A resumed training writes anew what came after its state."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._continued = False

    def append(self, lines: list[TrainingMetrics]) -> None:
        text = "".join(json.dumps(metrics_row(line)) + "\n" for line in lines)
        if not self._continued:
            self._continued = True
            before = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
            # A line that the interruption cut short belongs to an epoch that is trained again.
            kept = [line for line in before if line.endswith("}") and json.loads(line)["epoch"] < lines[0].epoch]
            write_text(self._path, "".join(line + "\n" for line in kept))
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(text)


def metrics_row(line: TrainingMetrics) -> dict[str, float]:
    """A line of metrics.jsonl."""
    weights = {f"{name}_weight": weight for name, weight in line.weights.items() if name in SCHEDULED}
    return {"epoch": line.epoch, "step": line.step, "loss": line.loss, **line.terms, **weights, "seconds": line.seconds}
