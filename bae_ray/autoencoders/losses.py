"""The terms of the training objective (paper, Eq. 3-5).

Shapes: N samples in the batch, D d_in, F d_latent, V latents that vary in the batch.
"""

from typing import Any

import torch
from torch import Tensor


def reconstruction_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean squared error over samples and dimensions of [N, D] tensors.

    Eq. 3 prints the sum over D; the mean is what the paper's loss weights of 1e-7 and its tables go with.
    """
    return torch.nn.functional.mse_loss(x_hat, x)


def bernoulli_entropy(firing_rate: Tensor) -> Tensor:
    """-p log2 p - (1-p) log2(1-p) in bits, elementwise, 0 at p = 0 and p = 1; gradient 0 there."""
    uncertain = (firing_rate > 0) & (firing_rate < 1)
    p = torch.where(uncertain, firing_rate, 0.5)
    bits = -(p * p.log2() + (1 - p) * (1 - p).log2())
    return torch.where(uncertain, bits, 0.0)


def marginal_entropy(code: Tensor) -> Tensor:
    """Marginal entropy in bits of a binary [N, F] code: the Bernoulli entropies of its firing rates, summed over F.

    The entropy term of Eq. 4. The paper prints only the -x log2 x half; the Bernoulli form is what a code of r
    independent fair bits needs to measure r bits.
    """
    return bernoulli_entropy(code.mean(0)).sum()


class _CovariancePenalty(torch.autograd.Function):
    """The penalty on a code [N, V] of 0 and 1 whose columns all vary.

    N (N-1) cov = N C'C - s s' has integer entries, so in fp32 they, and above all their signs, are exact while N^2 <
    2^24, where a covariance from centred columns would take a random sign at zero. Two matrix products in all.
    """

    @staticmethod
    def forward(ctx: Any, code: Tensor) -> Tensor:
        n = code.shape[0]
        fired = code.sum(0)
        scaled = torch.addmm(torch.outer(fired, fired), code.T, code, beta=-1, alpha=n)  # N (N-1) cov, [V, V]
        scaled.fill_diagonal_(0)
        ctx.save_for_backward(code, scaled)
        return scaled.abs().sum() / (n * (n - 1))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        code, scaled = ctx.saved_tensors
        n = code.shape[0]
        product = code @ scaled.sign()
        return (product - product.mean(0)) * (grad_outputs[0] * 2 / (n - 1))


def covariance_penalty(code: Tensor) -> Tensor:
    """Sum over i != j of |cov(code)_ij| for a binary [N, F] code (the covariance term of Eq. 4), N >= 2.

    Only the latents that vary in the batch are looked at: a constant one has zero covariance with every other and a
    zero subgradient, so value and gradient are those of the dense definition at a fraction of its cost.
    """
    fired = code.detach().sum(0)
    varying = torch.nonzero((fired > 0) & (fired < code.shape[0])).squeeze(1)
    if varying.numel() < 2:
        return code.sum() * 0.0
    selected = code if varying.numel() == code.shape[1] else code.index_select(1, varying)
    return _CovariancePenalty.apply(selected)  # pyright: ignore[reportReturnType]
