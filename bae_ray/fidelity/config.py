"""Settings for measuring the fidelity of autoencoders."""

from pydantic import Field

from bae_ray.activations.config import Precision
from bae_ray.config import Config


class FidelityConfig(Config):
    """How the language model is run on held-out texts with reconstructions in place of its activations."""

    model: str | None = None
    """The language model: a local folder or a hub id. None: the name in the store. Set it if that is not found here or
    on the hub."""
    max_texts: int | None = Field(default=256, ge=1)
    """Largest number of held-out texts for each run, drawn at random. None: all."""
    max_tokens: int = Field(default=128, ge=2)
    """Longest text, in tokens; longer texts are cut there."""
    dtype: Precision = "float32"
    """Precision of the language model."""
    batch_tokens: int = Field(default=512, ge=1)
    """Tokens per forward pass, at most, padding included. A single longer text is a batch by itself."""
    seed: int = Field(default=0, ge=0)
    """Seed for drawing texts and for the confidence intervals."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap samples of the texts for the confidence intervals."""
    workers: int | None = Field(default=None, ge=1)
    """Copies of the model that run in parallel. None: as many as fit on the cluster as it is now."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs of each worker, and so its threads."""
    gpus_per_worker: float | None = Field(default=None, ge=0, le=1)
    """GPU share of each worker. None: 1 if the cluster has GPUs now, else 0."""
    attempts: int = Field(default=3, ge=1)
    """How often a unit of work is tried if its worker dies. Then it is reported, and the others go on."""
