"""The Gated SAE of the literature (arXiv 2404.16014); the paper's own Gated ReLU is among its baselines.

Shapes: N samples, F d_latent.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder, affine
from bae_ray.autoencoders.config import GatedSAEConfig


class GatedSAE(Autoencoder):
    """A gate decides what fires, a magnitude with tied weights how strongly (arXiv 2404.16014).

    With p = x W_enc: latents = 1[p + b_gate > 0] ReLU(p exp(r_mag) + b_mag). The L1 penalty is on ReLU(p + b_gate),
    and the gate is kept to the data by an auxiliary reconstruction from it, through a decoder that it does not train.
    Parameters, in place of b_enc: `b_gate`, `b_mag`, `r_mag`, each [F].
    """

    def __init__(self, config: GatedSAEConfig) -> None:
        super().__init__(config)
        self.b_gate = nn.Parameter(torch.empty(self.d_latent))
        self.b_mag = nn.Parameter(torch.empty(self.d_latent))
        self.r_mag = nn.Parameter(torch.empty(self.d_latent))
        self.reset_parameters(None)

    @property
    @override
    def has_encoder_bias(self) -> bool:
        return False

    @override
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        super().reset_parameters(generator)
        for parameter in (self.b_gate, self.b_mag, self.r_mag):
            nn.init.zeros_(parameter)

    @override
    def restart(self, dead: Tensor, living: Tensor) -> list[str]:
        for parameter in (self.b_gate, self.b_mag, self.r_mag):
            parameter[dead] = 0.0
        return ["b_gate", "b_mag", "r_mag"]

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        magnitude = pre_activations * self.r_mag.exp().unsqueeze(-2) + self.b_mag.unsqueeze(-2)
        return magnitude.relu() * (self._gate(pre_activations) > 0)

    @override
    def penalized(self, pre_activations: Tensor, latents: Tensor) -> Tensor:
        return self._gate(pre_activations).relu()

    def auxiliary_reconstruction(self, pre_activations: Tensor) -> Tensor:
        """Normalised activations [N, D] decoded from the gate alone; no gradient reaches the decoder."""
        return affine(self._gate(pre_activations).relu(), self.W_dec.detach(), self.b_dec.detach())

    def _gate(self, pre_activations: Tensor) -> Tensor:
        return pre_activations + self.b_gate.unsqueeze(-2)
