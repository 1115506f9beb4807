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
    """Vectors per part, rounded to whole blocks. A part is the unit of work that is retried and resumed."""
    workers: int | None = Field(default=None, ge=1)
    """Copies of the autoencoder that run in parallel. None: as many as fit on the cluster as it is now."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs of each worker, and so its threads."""
    gpus_per_worker: float | None = Field(default=None, ge=0, le=1)
    """GPU share of each worker. None: 1 if the cluster has GPUs now, else 0."""
    attempts: int = Field(default=3, ge=1)
    """How often a part is tried if its worker dies. Then it is reported, and the others go on."""


class CompressConfig(ParallelConfig):
    """How activations are compressed."""

    scheme: SchemeChoice = "entropy"
    """entropy: code every bit by its firing rate. tree: code every bit given the bit it depends on in the autoencoder's
    Chow-Liu tree. indices: the paper's, which keeps the indices of surprising bits only. auto: entropy or tree,
    whichever makes a sample smaller."""
    threshold: float | None = Field(default=None, ge=-1, le=0)
    """Scheme indices: a bit is kept if its burstiness, log2 |code - prior|, is above this number in [-1, 0]. None:
    -1."""
    prior: PriorChoice = "encoder"
    """Firing rates to code with. encoder: those over the autoencoder's reference set. data: those of the activations to
    compress, or of 16,384 of them, which takes a further pass. auto: whichever makes a sample smaller."""
    table: TableChoice = "reference"
    """Where the table of firing rates is kept. reference: with the autoencoder, which the reader needs anyway; rates of
    other data go into the container. embedded: in the container, NAME.codes.safetensors, which can be read by
    itself."""
    block_rows: int = Field(default=BLOCK_ROWS, ge=1)
    """Vectors per block. With fewer, single vectors are read faster, and files are larger."""


class DecompressConfig(ParallelConfig):
    """How activations are reconstructed from containers."""

    format: ArrayFormat = "npy"
    """npy: a NumPy array. safetensors: one tensor `activations`. Both are float32."""
