"""What to measure the fidelity of autoencoders on, and with what."""

from pydantic import Field

from bae_ray.activations.config import Precision
from bae_ray.config import Config


class FidelityConfig(Config):
    """How the language model is run on held-out texts with reconstructions in place of its activations."""

    model: str | None = None
    """The language model, where the store's name for it is no folder here and not on the hub."""
    max_texts: int | None = Field(default=256, ge=1)
    """Held-out texts for each run, at most, drawn at random. None: all."""
    max_tokens: int = Field(default=128, ge=2)
    """Longer texts are cut there."""
    dtype: Precision = "float32"
    """Precision of the language model."""
    batch_tokens: int = Field(default=512, ge=1)
    """Tokens per forward pass, at most, padding included; a single longer text is a batch by itself."""
    seed: int = Field(default=0, ge=0)
    """Seed of the texts drawn and of the intervals."""
    resamples: int = Field(default=1000, ge=100)
    """How often texts are drawn anew for the intervals."""
    workers: int | None = Field(default=None, ge=1)
    """Copies of the model that run in parallel. Left out: as many as fit on the cluster as it is now."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs, and so threads, of each worker."""
    gpus_per_worker: float | None = Field(default=None, ge=0, le=1)
    """GPU share of each worker. Left out: 1 where the cluster has GPUs now, else 0."""
    attempts: int = Field(default=3, ge=1)
    """How often a unit of work is tried whose worker dies; then it is reported, and the others go on."""
