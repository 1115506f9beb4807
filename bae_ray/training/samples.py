"""The samples of a training: those that are trained on, those held out to measure on, and their normalisation.

Shapes: N samples, D d_in.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import column_mean
from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import TrainingError
from bae_ray.seeds import stream
from bae_ray.training.batches import ROWS_AT_ONCE


def held_out_count(n: int, val_fraction: float) -> int:
    """How many of n samples are held out: at least two, and at least two are trained on."""
    return min(max(round(n * val_fraction), 2), n - 2)


class Split(NamedTuple):
    """Activations [N, D] and the rows of each part."""

    x: Rows
    target: Rows | None
    """What a transcoder reconstructs."""
    train: Tensor
    """Numbers of the rows that are trained on."""
    held_out: Tensor

    @classmethod
    def draw(cls, x: Rows, target: Rows | None, val_fraction: float, seed: int) -> Self:
        """Draw the held-out rows at random."""
        order = torch.randperm(len(x), generator=stream(seed, "split"))
        n = held_out_count(len(x), val_fraction)
        return cls(x, target, order[n:].sort().values, order[:n].sort().values)

    def parts(self) -> Iterator[tuple[Rows, Rows | None]]:
        """Activations and target of the training rows, then those of the held-out rows."""
        for rows in (self.train, self.held_out):
            yield self.x.select(rows), None if self.target is None else self.target.select(rows)


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
