"""Terms of the training objective (paper, Eq. 3-5, 9, 14, 16).

Shapes: N samples in the batch, D d_in, F d_latent. With a further leading dimension of members, [M, N, ...], all
give a value for each, [M]. Sums over samples are taken in float32 whatever the dtype.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bae_ray.autoencoders.config import EntropyForm, Reduction


def reconstruction_loss(x_hat: Tensor, x: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared error of [N, D] tensors, averaged over samples and, by `reduction`, averaged or summed over D.

    Eq. 3 prints the sum; the paper's loss weights of 1e-7 and its tables belong to the mean.
    """
    per_sample = (x_hat - x).float().square().sum((-2, -1)) / x.shape[-2]
    return per_sample / x.shape[-1] if reduction == "mean" else per_sample


def bernoulli_entropy(firing_rate: Tensor) -> Tensor:
    """-p log2 p - (1-p) log2(1-p) in bits, elementwise, 0 at p = 0 and p = 1; gradient 0 there."""
    return _entropy(firing_rate, lambda p: -(p * p.log2() + (1 - p) * (1 - p).log2()))


def printed_entropy(firing_rate: Tensor) -> Tensor:
    """-p log2 p in bits, elementwise, as Eq. 4 prints it; 0 and gradient 0 at p = 0 and p = 1."""
    return _entropy(firing_rate, lambda p: -p * p.log2())


def marginal_entropy(code: Tensor, form: EntropyForm = "bernoulli") -> Tensor:
    """Marginal entropy in bits of a binary [N, F] code: the entropies of its firing rates, summed over F.

    The entropy term of Eq. 4. The paper prints only the half -x log2 x; only the Bernoulli form gives r bits for r
    independent fair bits.
    """
    rates = code.mean(-2, dtype=torch.promote_types(code.dtype, torch.float32))
    return (bernoulli_entropy if form == "bernoulli" else printed_entropy)(rates).sum(-1)


def l1_penalty(latents: Tensor, reduction: Reduction = "sum") -> Tensor:
    """L1 norm of latents [N, F], summed over F and, by `reduction`, over the batch (Eq. 9, 14, 16) or averaged."""
    total = latents.abs().sum((-2, -1), dtype=torch.promote_types(latents.dtype, torch.float32))
    return total if reduction == "sum" else total / latents.shape[-2]


def l0_penalty(fires: Tensor) -> Tensor:
    """Mean number of latents that fire per sample, from [N, F] of 1 where a latent fires, else 0.

    Not an L1 norm, whose gradient is 0 where a latent does not fire: the thresholds' gradient comes from both sides.
    """
    return fires.sum((-2, -1), dtype=torch.promote_types(fires.dtype, torch.float32)) / fires.shape[-2]


def _entropy(firing_rate: Tensor, entropy: Callable[[Tensor], Tensor]) -> Tensor:
    # The derivative is infinite at the ends. A latent that never or always fires gets no gradient instead.
    uncertain = (firing_rate > 0) & (firing_rate < 1)
    return torch.where(uncertain, entropy(torch.where(uncertain, firing_rate, 0.5)), 0.0)
