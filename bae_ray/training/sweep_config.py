"""What a sweep trains: its grid, or a search in place of it, and what each training may take of the cluster."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from bae_ray.activations.config import Position
from bae_ray.autoencoders.architectures import AutoencoderConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.config import Config
from bae_ray.training.axes import as_conditions, as_texts
from bae_ray.training.config import TrainingConfig


class SearchConfig(Config):
    """In place of training a whole grid: stop runs that do worse, and draw settings where they promise most."""

    scheduler: Literal["none", "asha"] = "none"
    """asha: runs whose metric is worse than that of others of the same age are stopped (ASHA, arXiv 1810.05934)."""
    metric: str = "reconstruction"
    """What is to be small: a column of metrics.jsonl, such as reconstruction, loss or entropy; without a scheduler also
    a measure of the results, such as fvu_val."""
    grace_epochs: int = Field(default=10, ge=1)
    """asha: epochs before which no run is stopped."""
    reduction: int = Field(default=3, ge=2)
    """asha: N; at each comparison the best 1 of N runs goes on."""
    samples: int | None = Field(default=None, ge=1)
    """How many settings Optuna draws for each cell from the ranges (a tree-structured Parzen estimator), in place of
    axes and seeds. None: the grid is trained."""
    ranges: Annotated[tuple[str, ...], BeforeValidator(as_texts)] = ()
    """Where they are drawn from, each FIELD=LOW..HIGH over a field of the autoencoder or the training;
    FIELD=log:LOW..HIGH for a logarithmic scale."""

    @property
    def is_grid(self) -> bool:
        """Whether every run of the grid is trained to its end."""
        return self.scheduler == "none" and self.samples is None


class ExecutionConfig(Config):
    """What changes how long a grid takes and where it is logged, and not what is trained."""

    cpus_per_trial: float = Field(default=1, gt=0)
    """CPUs, and so threads, of each training."""
    gpus_per_trial: float | None = Field(default=None, ge=0)
    """GPU share of each training, such as 0.25; 0: it runs on the CPU. None: the share that the largest training is
    measured to need, or 0 if the cluster has no GPU now. Give it where the cluster adds GPUs on demand."""
    packed: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """How many runs are trained together, as one; 1: each by itself. auto: measured before the sweep, up to the number
    at which memory is full or a larger one saves no time; every GPU gets some. None: auto on GPUs, 8 on CPUs. Packed
    or not, a run has the same numbers to rounding."""
    packed_cells: Literal["one", "several"] | None = None
    """Whether runs that are trained together come from one cell only, or from several. None: several on GPUs, where the
    few runs of one cell leave most of a GPU idle; one on CPUs."""
    retries: int = Field(default=2, ge=0)
    """How often a training whose worker dies is begun again. After that, and where memory ran out, it is tried once
    more with nothing beside it."""
    tensorboard: bool = True
    """Write each run's metrics for TensorBoard into the folder tensorboard/ beside the runs."""
    wandb: str | None = None
    """Weights & Biases project to log each run to; without an API key in the environment it is logged offline, into the
    folder wandb/ beside the runs. Needs the package wandb."""
    mlflow: str | None = None
    """MLflow tracking URI to log each run to, such as sqlite:////shared/mlflow.db. Needs the package mlflow."""


class SweepConfig(ExecutionConfig):
    """A grid of autoencoders: the product of cells, axes and seeds."""

    layers: tuple[int, ...] | None = None
    """Layers of the store. None: all of them."""
    positions: tuple[Position, ...] | None = None
    """Positions of the store. None: all of them."""
    sites: tuple[str, ...] | None = None
    """Sites of the store. None: all of them."""
    autoencoder: AutoencoderConfig = BAEConfig()
    """Architecture of every run, except where an axis changes it."""
    training: TrainingConfig = TrainingConfig()
    """Training of every run, except where an axis or a seed changes it."""
    axes: Annotated[tuple[str, ...], BeforeValidator(as_texts)] = ()
    """Further axes of the grid, each FIELD=VALUE,VALUE,... over a field of `autoencoder` or `training`, such as
    training.lr=1e-3,3e-3 or autoencoder.architecture=bae,relu,topk. Different axes multiply. Several fields in one,
    with a space between, go together, first value with first: "training.lr=1e-3,3e-3 training.batch_size=256,512"."""
    exclude: Annotated[tuple[str, ...], BeforeValidator(as_conditions)] = ()
    """Runs to leave out, each FIELD=VALUE,... FIELD=VALUE,... over layer, position, site and the fields of the configs:
    those that fulfil all of it. "layer=0 training.lr=3e-3" leaves out layer 0 at that learning rate."""
    seeds: tuple[int, ...] = ()
    """Seeds: the whole grid is trained once with each. Empty: training.seed alone."""
    skip_illegal: bool = False
    """Leave out, and report as failed, runs whose settings cannot go together; otherwise they stop the sweep before it
    begins."""

    search: SearchConfig = SearchConfig()
    """Left as it is, every run of the grid is trained to its end."""
