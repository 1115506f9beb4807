"""How a grid is executed: what a training may take of the cluster, and what is trained together."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from bae_ray.config import Config
from bae_ray.training.axes import as_texts


class SearchConfig(Config):
    """In place of training a whole grid: stop runs that do worse, and draw settings where they promise most."""

    scheduler: Literal["none", "asha"] = "none"
    """asha: runs whose metric is worse than that of others of the same age are stopped (ASHA, arXiv 1810.05934)."""
    metric: str = "reconstruction"
    """What is to be small: a column of metrics.jsonl, such as reconstruction, loss or entropy; without a scheduler also
    a measure of the results, such as fvu_val."""
    grace_epochs: int = Field(default=10, ge=1)
    """asha: no run is stopped before."""
    reduction: int = Field(default=3, ge=2)
    """asha: one of so many goes on at each halt."""
    samples: int | None = Field(default=None, ge=1)
    """How many settings Optuna draws for each cell from the ranges (a tree-structured Parzen estimator); in place of
    axes and seeds. Left out: the grid."""
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
    """GPU share of each training, such as 0.25; 0: it runs on the CPU. Left out: where the cluster has GPUs now, the
    share that the largest training is measured to need, else 0; say it where the cluster grows on demand."""
    packed: int = Field(default=8, ge=1)
    """Runs of one cell, with the same batches, that are trained as one; 1: each by itself. Packed or not, a run has the
    same numbers to rounding."""
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
