"""One run: a trained autoencoder's directory.

run.json            the RunConfig that determines it
metrics.jsonl       a line per epoch, or per step
state.safetensors   while it is trained: where to go on after an interruption
config.json, model.safetensors     the autoencoder
result.json         written last: the measures; a run without it is unfinished
failure.json        instead of it, where training failed: the reason
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import spectral_norm
from bae_ray.autoencoders import ArchitectureConfig, TranscoderConfig, check_architecture
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.objective import SCHEDULED
from bae_ray.training.trainer import train

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
STATE_FILE = "state.safetensors"
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"


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


def plan_run(
    store: ActivationStore, cell: Cell, autoencoder: ArchitectureConfig, training: TrainingConfig
) -> RunConfig:
    """The config of a run on one cell of a store, with everything taken from the data filled in.

    Raises `InvalidInputError` where the store lacks the cell that a transcoder is to reconstruct, or the widths do not
    go together.
    """
    data = store.fingerprint(cell)
    target = None
    if isinstance(autoencoder, TranscoderConfig):
        target = Cell(cell.layer + autoencoder.target_layer_offset, autoencoder.target_site, cell.position)
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
        autoencoder=filled,  # pyright: ignore[reportArgumentType] - pydantic checks that it is one of the union
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
    on_epoch: Callable[[int], None] = lambda _: None,
) -> RunResult:
    """Train the run's autoencoder and write its directory `runs/<id>`; a run that is finished is only read.

    An interrupted run goes on from its last state. Whatever goes wrong is recorded in the directory and raised again.
    `on_epoch` is told each finished epoch.
    """
    folder = runs / run.id
    if is_finished(runs, run):
        return RunResult.model_validate_json((folder / RESULT_FILE).read_text(encoding="utf-8"))
    write_text(folder / RUN_FILE, run.model_dump_json(indent=2) + "\n")
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    metrics = _MetricsLog(folder / METRICS_FILE)

    def log(lines: list[TrainingMetrics]) -> None:
        metrics.append(lines)
        on_epoch(lines[-1].epoch)

    try:
        x, target = (_rows(store, cell) if cell else None for cell in (run.cell, run.target))
        assert x is not None
        trained = train(x, run.autoencoder, run.training, device, log, target, folder / STATE_FILE)
    except Exception as error:
        reason = {"error": type(error).__name__, "message": str(error), "cell": run.cell.model_dump()}
        write_text(folder / FAILURE_FILE, json.dumps(reason, indent=2) + "\n")
        raise
    trained.autoencoder.save_pretrained(folder)
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
    write_text(folder / RESULT_FILE, result.model_dump_json(indent=2) + "\n")
    return result


def _rows(store: ActivationStore, cell: CellConfig) -> Rows:
    return Rows(store.shards(cell.layer, cell.position, cell.site))


class _MetricsLog:
    """metrics.jsonl: a line per epoch or step. A resumed training writes anew what came after its state."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._continued = False

    def append(self, lines: list[TrainingMetrics]) -> None:
        text = "".join(json.dumps(_flat(line)) + "\n" for line in lines)
        if not self._continued:
            self._continued = True
            before = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
            # A line that the interruption cut short belongs to an epoch that is trained again.
            kept = [line for line in before if line.endswith("}") and json.loads(line)["epoch"] < lines[0].epoch]
            write_text(self._path, "".join(line + "\n" for line in kept))
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(text)


def _flat(line: TrainingMetrics) -> dict[str, float]:
    weights = {f"{name}_weight": weight for name, weight in line.weights.items() if name in SCHEDULED}
    return {"epoch": line.epoch, "step": line.step, "loss": line.loss, **line.terms, **weights, "seconds": line.seconds}
