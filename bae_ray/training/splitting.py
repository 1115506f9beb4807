"""The samples of a training: those that are trained on, and those that are held out to measure on.

Shapes: N samples, D d_in.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.seeds import stream


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
