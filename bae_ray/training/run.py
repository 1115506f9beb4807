"""One run: a trained autoencoder's directory.

run.json            the RunConfig that determines it
metrics.jsonl       a line per epoch
config.json, model.safetensors     the checkpoint
result.json         written last: the measures; a run without it is unfinished and is trained anew
failure.json        instead of it, where training failed: the reason
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from bae_ray.activations.store import ActivationStore, Cell
from bae_ray.autoencoders import BAEConfig, save_autoencoder
from bae_ray.files import write_text
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig
from bae_ray.training.trainer import EpochMetrics, train

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"


class RunResult(BaseModel):
    """The measures of one finished run: a row of every table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    layer: int
    site: str
    position: int
    n_train: int
    n_val: int
    d_in: int
    d_latent: int
    entropy_bits: float
    """Over all n, as in the paper."""
    fvu_train: float
    fvu_val: float
    l0: float
    """Over all n, as are the next two."""
    dead: float
    dense: float
    seed: int
    run: str
    seconds: float


def plan_run(store: ActivationStore, cell: Cell, autoencoder: BAEConfig, training: TrainingConfig) -> RunConfig:
    """The config of a run on one cell of a store, with everything taken from the data filled in."""
    return RunConfig(
        cell=CellConfig(layer=cell.layer, position=cell.position, site=cell.site),
        data=store.fingerprint(cell),
        autoencoder=autoencoder.model_copy(update={"d_in": autoencoder.d_in or store.manifest.d}),
        training=training,
    )


def is_finished(runs: Path, run: RunConfig) -> bool:
    """Whether this run's result is there."""
    return (runs / run.id / RESULT_FILE).exists()


def failure_reason(runs: Path, run: RunConfig) -> str | None:
    """Why the last attempt at this run failed, if it left word."""
    file = runs / run.id / FAILURE_FILE
    return json.loads(file.read_text(encoding="utf-8"))["message"] if file.exists() else None


def execute_run(
    run: RunConfig,
    store: ActivationStore,
    runs: Path,
    device: str | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda _: None,
) -> RunResult:
    """Train the run's autoencoder and write its directory `runs/<id>`; a run that is finished is only read.

    Whatever goes wrong is recorded in the directory and raised again.
    """
    folder = runs / run.id
    if is_finished(runs, run):
        return RunResult.model_validate_json((folder / RESULT_FILE).read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)  # what a killed or failed attempt has left
    write_text(folder / RUN_FILE, run.model_dump_json(indent=2) + "\n")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cell = Cell(run.cell.layer, run.cell.site, run.cell.position)
    try:
        with open(folder / METRICS_FILE, "w", encoding="utf-8") as metrics:

            def log(epoch: EpochMetrics) -> None:
                metrics.write(json.dumps(epoch._asdict()) + "\n")
                on_epoch(epoch)

            matrix = store.matrix(cell.layer, cell.position, cell.site)
            trained = train(matrix, run.autoencoder, run.training, device, log)
    except Exception as error:
        reason = {"error": type(error).__name__, "message": str(error), "cell": run.cell.model_dump()}
        write_text(folder / FAILURE_FILE, json.dumps(reason, indent=2) + "\n")
        raise
    save_autoencoder(trained.autoencoder, folder)
    result = RunResult(
        model=str(store.manifest.request.model["name"]),
        **cell._asdict(),
        n_train=trained.train.n,
        n_val=trained.val.n,
        d_in=trained.autoencoder.d_in,
        d_latent=trained.autoencoder.d_latent,
        entropy_bits=trained.all.entropy_bits,
        fvu_train=trained.train.fvu,
        fvu_val=trained.val.fvu,
        l0=trained.all.l0,
        dead=trained.all.dead,
        dense=trained.all.dense,
        seed=run.training.seed,
        run=run.id,
        seconds=trained.seconds,
    )
    write_text(folder / RESULT_FILE, result.model_dump_json(indent=2) + "\n")
    return result
