"""Batches of several cells at once, for autoencoders that are trained as one though their activations differ.

Shapes: C cells, N samples in a batch, D d_in.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.training.samples import Batch, Batches, Placement, empty_batch, placement_of


class Normalized(NamedTuple):
    """Rows of one cell, and what normalises them."""

    x: Rows
    target: Rows | None
    normalize: Callable[[Tensor], Tensor]
    normalize_target: Callable[[Tensor], Tensor]


class SideBySide:
    """The same rows of cells of equally many samples: batches [C, N, D]."""

    def __init__(self, cells: Sequence[Normalized], device: torch.device, placement: Placement | None = None) -> None:
        x, target, *_ = cells[0]
        placement = placement or placement_of(x.shape, bool(target), device, len(cells))
        self.resident: Batch | None = None
        """All rows of all cells [C, rows, D], where they are on the device."""
        places: list[Batch | None] = [None] * len(cells)
        if placement == "device":
            self.resident = empty_batch((len(cells), *x.shape), device, bool(target))
            places = [_cell(self.resident, number) for number in range(len(cells))]
        self.cells = [Batches(*cell, device, placement, place) for cell, place in zip(cells, places, strict=True)]
        """The batches of each."""

    def __len__(self) -> int:
        return len(self.cells[0])

    def batches(self, order: Tensor, batch_size: int, first: int = 0, partial: bool = False) -> Iterator[Batch]:
        """As those of one cell (`Batches`), [C, N, D]."""
        of_cells = [cell.batches(order, batch_size, first, partial) for cell in self.cells]
        for some in zip(*of_cells, strict=True):
            x = torch.stack([batch.x for batch in some])
            yield Batch(x, x if some[0].target is some[0].x else torch.stack([batch.target for batch in some]))


def batches_of(
    cells: Sequence[Normalized], device: torch.device, placement: Placement | None = None
) -> Batches | SideBySide:
    """Batches [N, D] of one cell, or [C, N, D] of several."""
    return Batches(*cells[0], device, placement) if len(cells) == 1 else SideBySide(cells, device, placement)


def _cell(batch: Batch, number: int) -> Batch:
    x = batch.x[number]
    return Batch(x, x if batch.target is batch.x else batch.target[number])
