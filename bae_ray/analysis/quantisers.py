"""Scalar quantisers: how many thresholds a component is worth, and where they are.

Shapes: N samples, K components, T thresholds of each.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.autoencoders.losses import bernoulli_entropy

NUMBERS = (1, 3, 7)
"""Numbers of thresholds that a component may have: 2, 4 or 8 levels."""
ROUNDS = 30


class Quantiser(NamedTuple):
    """The same number of thresholds for each component."""

    thresholds: Tensor
    """Ascending, [T, K]."""
    levels: Tensor
    """Reconstructed value below, between and above the thresholds, [T + 1, K]."""
    error: Tensor
    """Mean squared error, [K]."""
    bits: Tensor
    """Marginal entropy of the bits "at or above a threshold", [K]: their Bernoulli entropies, summed."""


def quantiser(components: Tensor, number: int) -> Quantiser:
    """`number` thresholds for each component [N, K], with the least squared error near the quantiles (Lloyd, 1982).

    A level without samples equals the one below it, so a component with two values works with any number.
    """
    shares = torch.arange(1, number + 1, device=components.device) / (number + 1)
    ordered = components.sort(0).values
    thresholds = ordered[(shares * len(components)).long().clamp_max(len(components) - 1)]
    levels = _levels(components, thresholds)
    for _ in range(ROUNDS):
        thresholds = (levels[1:] + levels[:-1]) / 2
        levels = _levels(components, thresholds)
    above = components >= thresholds[:, None]
    error = (components - levels.gather(0, above.sum(0))).square().mean(0)
    return Quantiser(thresholds, levels, error, bernoulli_entropy(above.to(components.dtype).mean(1)).sum(0))


def _levels(components: Tensor, thresholds: Tensor) -> Tensor:
    """Mean of the samples between thresholds, [T + 1, K]."""
    bins = (components >= thresholds[:, None]).sum(0)
    sums = components.new_zeros(len(thresholds) + 1, components.shape[1])
    counts = sums.scatter_add(0, bins, torch.ones_like(components))
    means = sums.scatter_add(0, bins, components) / counts.clamp_min(1)
    for level in range(1, len(means)):
        means[level] = torch.where(counts[level] > 0, means[level], means[level - 1])
    for level in range(len(means) - 2, -1, -1):  # below the lowest that has samples
        empty = (counts[: level + 1] == 0).all(0)
        means[level] = torch.where(empty, means[level + 1], means[level])
    return means
