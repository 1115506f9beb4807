"""The configs of the autoencoders' architectures."""

from typing import Literal

from pydantic import Field

from bae_ray.config import Config


class BAEConfig(Config):
    """Architecture of a binary autoencoder (paper, Eq. 1-2)."""

    architecture: Literal["bae"] = "bae"
    """Which autoencoder this is."""
    d_in: int | None = Field(default=None, ge=1)
    """Width of the activations; left out, it is taken from the data."""
    expansion: int = Field(default=4, ge=1)
    """d_latent / d_in."""
    encoder_bias: bool = True
    """Add a bias before the step function, as the released code does. Eq. 1 prints none, but without one a centred
    activation and its opposite have opposite codes, so that latents fire half of the time whatever they mean."""
