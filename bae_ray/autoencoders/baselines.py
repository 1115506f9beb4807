"""The paper's baselines, sparse autoencoders (Eq. 8-16): ReLU, top-k, Gated ReLU, and the transcoder.

They share the base's encoder and decoder and differ in the non-linearity.
"""

import torch
from torch import Tensor
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.config import GatedConfig, ReLUConfig, TopKConfig, TranscoderConfig
from bae_ray.errors import InvalidInputError


class ReLUAutoencoder(Autoencoder):
    """x_hat = ReLU(x W_enc [+ b_enc]) W_dec + b_dec, with an L1 penalty (Eq. 8-9)."""

    def __init__(self, config: ReLUConfig | TranscoderConfig) -> None:
        super().__init__(config)
        self.reset_parameters(None)

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        return pre_activations.relu()


class TopKAutoencoder(Autoencoder):
    """The k largest pre-activations of a sample are kept as they are, the others are 0 (Eq. 10-11). No penalty."""

    def __init__(self, config: TopKConfig) -> None:
        super().__init__(config)
        check_k(config.k, self.d_latent)
        self.k = config.k
        self.nonnegative = config.nonnegative
        self.reset_parameters(None)

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        kept = pre_activations.topk(self.k, dim=-1)
        values = kept.values.relu() if self.nonnegative else kept.values
        return torch.zeros_like(pre_activations).scatter(-1, kept.indices, values)


class GatedAutoencoder(Autoencoder):
    """x where x > threshold, else 0, of the pre-activations x, with an L1 penalty (Eq. 12-14)."""

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        self.threshold = config.threshold
        self.reset_parameters(None)

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        return pre_activations * (pre_activations > self.threshold)


class Transcoder(ReLUAutoencoder):
    """ReLU autoencoder from one cell's activations to another's (Eq. 15-16), each with a normalisation of its own.

    Buffers, besides the base's: `target_mean` [D], `target_scale` [].
    """

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, config: TranscoderConfig) -> None:
        super().__init__(config)
        self.register_buffer("target_mean", torch.zeros(self.d_in))
        self.register_buffer("target_scale", torch.ones(()))

    @property
    @override
    def target_normalization(self) -> tuple[Tensor, Tensor]:
        return self.target_mean, self.target_scale


def check_k(k: int, d_latent: int) -> None:
    """Raise `InvalidInputError` if there are fewer than k latents."""
    if k > d_latent:
        raise InvalidInputError(f"k is {k} but there are only {d_latent} latents. Lower k or raise the expansion.")
