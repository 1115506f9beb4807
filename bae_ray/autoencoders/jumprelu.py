"""The JumpReLU sparse autoencoder (arXiv 2407.14435), with learned thresholds.

Shapes: N samples, F d_latent.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.config import JumpReLUConfig


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
