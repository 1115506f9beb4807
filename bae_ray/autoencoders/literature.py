"""Sparse autoencoders of the literature beside the paper's own baselines: batch top-k, JumpReLU, and the Gated SAE.

Shapes: N samples, F d_latent.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder, affine
from bae_ray.autoencoders.baselines import check_k
from bae_ray.autoencoders.config import BatchTopKConfig, GatedSAEConfig, JumpReLUConfig

THRESHOLD_MOMENTUM = 0.99
GATE_AND_MAGNITUDE = ("b_gate", "b_mag", "r_mag")
"""Parameters of a Gated SAE in place of b_enc."""


class BatchTopKAutoencoder(Autoencoder):
    """The k N largest positive pre-activations of a batch of N are kept (arXiv 2412.06410).

    In evaluation mode a sample's latents must not depend on other samples: all latents above `threshold` [] are kept.
    It is a running mean of the smallest value kept in training.
    """

    threshold: Tensor

    def __init__(self, config: BatchTopKConfig) -> None:
        super().__init__(config)
        check_k(config.k, self.d_latent)
        self.k = config.k
        self.register_buffer("threshold", torch.full((), -1.0))  # below 0: not trained yet
        self.reset_parameters(None)

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        positive = pre_activations.relu()
        if not self.training:
            return positive * (positive > self.threshold[..., None, None])
        flat = positive.flatten(-2)
        kept = flat.topk(self.k * positive.shape[-2], dim=-1)
        self._follow(kept.values.detach())
        return torch.zeros_like(flat).scatter(-1, kept.indices, kept.values).view_as(positive)

    def _follow(self, kept: Tensor) -> None:
        """Move the threshold towards the smallest positive value of those kept, in descending order along the end."""
        smallest = torch.where(kept > 0, kept, torch.inf).amin(-1).to(self.threshold.dtype)
        smallest = torch.where(smallest.isfinite(), smallest, self.threshold.clamp_min(0))
        moved = torch.lerp(smallest, self.threshold, THRESHOLD_MOMENTUM)
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, moved))


class GatedSAE(Autoencoder):
    """A gate decides which latents fire, a magnitude with tied weights how strongly (arXiv 2404.16014).

    With p = x W_enc: latents = 1[p + b_gate > 0] ReLU(p exp(r_mag) + b_mag). The L1 penalty is on ReLU(p + b_gate). An
    auxiliary reconstruction from the gate, through a frozen copy of the decoder, ties the gate to the data. Parameters,
    in place of b_enc: `b_gate`, `b_mag`, `r_mag`, each [F].
    """

    def __init__(self, config: GatedSAEConfig) -> None:
        super().__init__(config)
        self.b_gate, self.b_mag, self.r_mag = (nn.Parameter(torch.empty(self.d_latent)) for _ in GATE_AND_MAGNITUDE)
        self.reset_parameters(None)

    @property
    @override
    def has_encoder_bias(self) -> bool:
        return False

    @override
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        super().reset_parameters(generator)
        for name in GATE_AND_MAGNITUDE:
            nn.init.zeros_(self.get_parameter(name))

    @override
    def restart(self, dead: Tensor, living: Tensor) -> list[str]:
        for name in GATE_AND_MAGNITUDE:
            self.get_parameter(name)[dead] = 0.0
        return [*GATE_AND_MAGNITUDE]

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


class JumpReLUAutoencoder(Autoencoder):
    """x where x > theta, else 0, with a learned theta > 0 per latent and an L0 penalty (arXiv 2407.14435).

    Parameter, besides the base's: `log_threshold` [F].
    """

    def __init__(self, config: JumpReLUConfig) -> None:
        super().__init__(config)
        self.bandwidth = config.bandwidth
        self.initial_threshold = config.initial_threshold
        self.log_threshold = nn.Parameter(torch.empty(self.d_latent))
        self.reset_parameters(None)

    @override
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        super().reset_parameters(generator)
        nn.init.constant_(self.log_threshold, math.log(self.initial_threshold))

    @override
    def restart(self, dead: Tensor, living: Tensor) -> list[str]:
        self.log_threshold[dead] = self.log_threshold[living].mean()
        return [*super().restart(dead, living), "log_threshold"]

    @override
    def least_firing(self, latents: Tensor) -> Tensor:
        return self.log_threshold[latents].exp()

    @override
    def activate(self, pre_activations: Tensor) -> Tensor:
        return _Jump.apply(  # pyright: ignore[reportReturnType]
            pre_activations, self._threshold(pre_activations), self.bandwidth
        )

    @override
    def penalized(self, pre_activations: Tensor, latents: Tensor) -> Tensor:
        """1 where a latent fires, else 0; differentiable in the thresholds only."""
        return _Fires.apply(  # pyright: ignore[reportReturnType]
            pre_activations.detach(), self._threshold(pre_activations), self.bandwidth
        )

    def _threshold(self, pre_activations: Tensor) -> Tensor:
        return self.log_threshold.exp().unsqueeze(-2).expand_as(pre_activations).to(pre_activations.dtype)


class _Jump(torch.autograd.Function):
    """x H(x - theta); backward in theta: -theta / bandwidth where |x - theta| < bandwidth / 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return x * (x > threshold)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        x, threshold = ctx.saved_tensors
        near = (x - threshold).abs() < ctx.bandwidth / 2
        gradient = grad_outputs[0]
        return gradient * (x > threshold), -gradient * near * threshold / ctx.bandwidth, None


class _Fires(torch.autograd.Function):
    """H(x - theta); backward in theta: -1 / bandwidth where |x - theta| < bandwidth / 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return (x > threshold).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:
        x, threshold = ctx.saved_tensors
        near = (x - threshold).abs() < ctx.bandwidth / 2
        return None, -grad_outputs[0] * near / ctx.bandwidth, None
