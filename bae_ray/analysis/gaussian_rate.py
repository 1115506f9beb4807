"""Bits that a Gaussian source with a cell's covariance needs at a given distortion.

Shapes: D d_in.
"""

import math

import torch
from torch import Tensor

from bae_ray.errors import InvalidInputError


def gaussian_rate_bits(variances: Tensor, fvu: float) -> float:
    """Rate, in bits per vector, at which a Gaussian vector with components of these variances [D] has this FVU.

    Reverse water-filling (Cover and Thomas, 10.3.3): each component keeps an error equal to the water level, or to its
    variance if that is smaller; the errors sum to `fvu` times the variance. No source with this covariance needs more
    bits at this FVU. Fewer are possible only where it is not Gaussian. Infinite at FVU 0, and 0 from FVU 1 on.

    Raises `InvalidInputError` for an FVU below 0.
    """
    if not fvu >= 0:
        raise InvalidInputError(f"fvu is {fvu}; expected a fraction of variance, of 0 or more.")
    falling = variances.double().sort(descending=True).values
    falling = falling[falling > 0]
    if not len(falling) or fvu >= 1:
        return 0.0
    if fvu == 0:
        return math.inf
    below = falling.flip(0).cumsum(0).flip(0)
    error, tail = fvu * below[0], torch.cat([below[1:], below.new_zeros(1)])
    number = torch.arange(1, len(falling) + 1, device=falling.device)
    # With the level at a component's variance the errors sum to this; those whose sum is larger are above the water.
    above = int((number * falling + tail > error).sum())
    level = (error - tail[above - 1]) / above
    return float((falling[:above] / level).log2().sum()) / 2
