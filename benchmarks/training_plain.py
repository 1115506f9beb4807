"""The binary autoencoder and its objective as one writes them down from the paper, to measure against."""

from typing import Any

import torch
from torch import Tensor, nn


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad_outputs[0] * s * (1 - s)


class PlainBAE(nn.Module):
    """Eq. 1-2: linear layers around a step."""

    def __init__(self, d: int, d_latent: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(d, d_latent)
        self.decoder = nn.Linear(d_latent, d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Code and reconstruction of a batch [N, D]."""
        code: Tensor = _Step.apply(self.encoder(x))  # pyright: ignore[reportAssignmentType]
        return code, self.decoder(code)


def plain_terms(model: PlainBAE, x: Tensor) -> list[Tensor]:
    """Reconstruction, entropy in bits, covariance (Eq. 3-4) of a batch [N, D], by torch's own functions."""
    code, x_hat = model(x)
    code = code.float()
    reconstruction = nn.functional.mse_loss(x_hat, x)
    p = code.mean(0).clamp(1e-7, 1 - 1e-7)
    entropy = -(p * torch.log2(p) + (1 - p) * torch.log2(1 - p)).sum()
    covariance = torch.cov(code.T)
    return [reconstruction, entropy, covariance.abs().sum() - covariance.diagonal().abs().sum()]
