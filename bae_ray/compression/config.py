"""How files are compressed and decompressed in parallel."""

from typing import Literal

from pydantic import Field

from bae_ray.compression.header import BLOCK_ROWS, Scheme, TableChoice
from bae_ray.config import Config

PriorChoice = Literal["encoder", "data", "auto"]
SchemeChoice = Literal[Scheme, "auto"]
"""A scheme, or the one of `entropy` and `tree` that makes a sample smaller."""
ArrayFormat = Literal["npy", "safetensors"]


class ParallelConfig(Config):
    """How the work is distributed."""

    part_rows: int = Field(default=65_536, ge=1)
    """Vectors per part, rounded to whole blocks: the unit of work that is retried and resumed."""
    workers: int | None = Field(default=None, ge=1)
    """Copies of the autoencoder that run in parallel. Left out: as many as fit on the cluster as it is now."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs, and so threads, of each worker."""
    gpus_per_worker: float | None = Field(default=None, ge=0, le=1)
    """GPU share of each worker. Left out: 1 where the cluster has GPUs now, else 0."""
    attempts: int = Field(default=3, ge=1)
    """How often a part is tried whose worker dies; then it is reported, and the others go on."""


class CompressConfig(ParallelConfig):
    """How activations are compressed."""

    scheme: SchemeChoice = "entropy"
    """entropy: every bit, at the cost of its entropy. tree: every bit, at its cost given another one's, by the
    autoencoder's tree. indices: the paper's, the indices of surprising bits as they are. auto: of the first two the one
    that makes a sample smaller."""
    threshold: float | None = Field(default=None, ge=-1, le=0)
    """Scheme indices: the burstiness above which a bit is kept, log2 of |code - prior|, in [log2 0.5, 0]. Left out:
    log2 0.5."""
    prior: PriorChoice = "encoder"
    """encoder: firing rates of the autoencoder's reference set. data: rates of the activations themselves, or of
    16,384 of them, which takes a further pass. auto: the one that makes the sample smaller."""
    table: TableChoice = "reference"
    """Where the table of firing rates is. reference: with the autoencoder, which the reader needs anyway; rates other
    than its own are in the container. embedded: in the container, NAME.codes.safetensors, which is read by itself."""
    block_rows: int = Field(default=BLOCK_ROWS, ge=1)
    """Vectors per block: fewer make reading single vectors quicker, and the files larger."""


class DecompressConfig(ParallelConfig):
    """How activations are reconstructed from containers."""

    format: ArrayFormat = "npy"
    """npy: a NumPy array. safetensors: one tensor `activations`. Both of float32."""
