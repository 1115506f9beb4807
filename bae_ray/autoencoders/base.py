"""What all autoencoders have in common: the interface, and each cell's normalisation."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bae_ray.autoencoders.config import BAEConfig


class AutoencoderOutput(NamedTuple):
    """Latents [N, F] and reconstruction [N, D]."""

    latents: Tensor
    x_hat: Tensor


class Autoencoder(nn.Module, ABC):
    """Base of the autoencoders.

    `encode`, `decode` and `forward` take and give activations in the language model's own units. Inside, the
    autoencoder works on (x - mean) / scale, because the size of activations differs a thousandfold between layers and
    one set of loss weights must mean the same in each; `encode_normalized` and `decode_normalized` are that inside.

    Buffers: `mean` [D], `scale` [], and `prior` [F], the firing rates over the activations it was trained on.
    """

    mean: Tensor
    scale: Tensor
    prior: Tensor

    def __init__(self, config: BAEConfig, d_in: int, d_latent: int) -> None:
        super().__init__()
        self.config = config
        self.d_in = d_in
        self.d_latent = d_latent
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("prior", torch.zeros(d_latent))

    def normalize(self, x: Tensor) -> Tensor:
        """(x - mean) / scale of activations [N, D], in the autoencoder's dtype."""
        return (x.to(self.mean.dtype) - self.mean) / self.scale

    def encode(self, x: Tensor) -> Tensor:
        """Latents [N, F] of activations [N, D]."""
        return self.encode_normalized(self.normalize(x))

    def decode(self, latents: Tensor) -> Tensor:
        """Activations [N, D] reconstructed from latents [N, F]."""
        return self.decode_normalized(latents) * self.scale + self.mean

    def forward(self, x: Tensor) -> AutoencoderOutput:
        """Encode and decode activations [N, D]."""
        latents = self.encode(x)
        return AutoencoderOutput(latents, self.decode(latents))

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights, from `generator` or torch's global one."""

    @abstractmethod
    def encode_normalized(self, x: Tensor) -> Tensor:
        """Latents [N, F] of normalised activations [N, D]."""

    @abstractmethod
    def decode_normalized(self, latents: Tensor) -> Tensor:
        """Normalised activations [N, D] from latents [N, F]."""
