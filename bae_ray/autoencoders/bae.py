"""The binary autoencoder (paper, Eq. 1-2)."""

from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.binarize import binarize
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.errors import InvalidInputError


class BinaryAutoencoder(Autoencoder):
    """x_hat = step(x W_enc [+ b_enc]) W_dec + b_dec (Eq. 1); the latents are a code of 0 and 1."""

    def __init__(self, config: BAEConfig) -> None:
        if config.d_in is None:
            raise InvalidInputError("d_in is not set: give the width of the activations in the architecture's config.")
        super().__init__(config, config.d_in, config.d_in * config.expansion)
        self.W_enc = nn.Parameter(torch.empty(self.d_in, self.d_latent))
        self.b_enc = cast(
            nn.Parameter | None,
            nn.Parameter(torch.empty(self.d_latent)) if config.encoder_bias else None,
        )
        self.W_dec = nn.Parameter(torch.empty(self.d_latent, self.d_in))
        self.b_dec = nn.Parameter(torch.empty(self.d_in))
        self.reset_parameters(None)

    @override
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Draw all parameters uniformly in +-1/sqrt(fan in), as `torch.nn.Linear` does."""
        for parameter, fan_in in (
            (self.W_enc, self.d_in),
            (self.b_enc, self.d_in),
            (self.W_dec, self.d_latent),
            (self.b_dec, self.d_latent),
        ):
            if parameter is not None:
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)

    def pre_activations(self, x: Tensor) -> Tensor:
        """What the step function is applied to, [N, F], for normalised activations [N, D]."""
        return x @ self.W_enc if self.b_enc is None else torch.addmm(self.b_enc, x, self.W_enc)

    @override
    def encode_normalized(self, x: Tensor) -> Tensor:
        return binarize(self.pre_activations(x))

    @override
    def decode_normalized(self, latents: Tensor) -> Tensor:
        return torch.addmm(self.b_dec, latents, self.W_dec)
