"""How to train; and which run this is."""

from typing import Literal

from pydantic import Field

from bae_ray.autoencoders.config import BAEConfig
from bae_ray.config import Config, content_hash


class TrainingConfig(Config):
    """How to train one autoencoder; the defaults are the paper's (section 3)."""

    epochs: int = Field(default=2000, ge=1)
    """Passes over the training split."""
    batch_size: int = Field(default=512, ge=2)
    """Samples per step. A split smaller than this is one batch; a last, smaller batch of an epoch is dropped."""
    lr: float = Field(default=5e-4, gt=0)
    """Learning rate of Adam."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's first momentum factor."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's second momentum factor."""
    entropy_weight: float = Field(default=1e-7, ge=0)
    """Weight of the marginal entropy in bits (alpha_e of Eq. 4)."""
    covariance_weight: float = Field(default=1e-7, ge=0)
    """Weight of the covariance penalty (alpha_c of Eq. 4)."""
    entropy_warmup: float = Field(default=0.25, ge=0, le=1)
    """Share of the epochs, at the start, without the entropy term (500 of 2000 in the paper)."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the samples held out of training."""
    normalize: Literal["rms", "none"] = "rms"
    """rms: centre each cell and scale it to unit RMS, so that the loss weights mean the same in each. none: as the
    paper, which trains on the activations as they are."""
    seed: int = 0
    """Seed of the split, the initial weights and the order of the samples."""


class CellConfig(Config):
    """One cell of an activation store."""

    layer: int
    """Layer: index into hidden_states."""
    position: int
    """Token index in the text."""
    site: str = "residual"
    """Where in the layer."""


class RunConfig(Config):
    """Everything that determines one trained autoencoder; its hash names the run."""

    cell: CellConfig
    """Which activations."""
    data: str
    """Fingerprint of the cell's activations in the store."""
    autoencoder: BAEConfig = BAEConfig()
    """Which autoencoder."""
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""

    @property
    def id(self) -> str:
        """Name of the run's directory: a hash of this config."""
        return content_hash(self.model_dump(mode="json"))
