"""Normalisation of activations: centred, and of unit RMS over the training samples.

Shapes: D d_in.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import column_mean
from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import TrainingError
from bae_ray.training.batches import ROWS_AT_ONCE


class Normalization(NamedTuple):
    """Mean [D] and scale []: (x - mean) / scale is centred and of unit RMS."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Rows) -> Self:
        """The normalisation of activations. Raises `TrainingError` where they differ by too little for float32."""
        mean = column_mean(x)
        squares = sum(float((batch.double() - mean).square().sum()) for batch in x.split(ROWS_AT_ONCE))
        scale = math.sqrt(squares / (x.shape[0] * x.shape[1]))
        tiny = torch.finfo(torch.float32).tiny
        if 0 < scale < tiny:
            raise TrainingError(
                f"activations differ by {scale:.3g} (root mean square) from their mean, which is below float32's "
                "normal range; expected at least 1.2e-38. Multiply all of them by one number."
            )
        return cls(mean, torch.tensor(max(scale, tiny)))


def set_normalization(autoencoder: Autoencoder, x: Normalization | None, target: Normalization | None) -> None:
    """Make it the autoencoder's own; None leaves the activations as they are."""
    if x is not None:
        autoencoder.mean.copy_(x.mean)
        autoencoder.scale.copy_(x.scale)
    if target is not None:
        for buffer, value in zip(autoencoder.target_normalization, target, strict=True):
            buffer.copy_(value)
