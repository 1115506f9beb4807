"""Rows of a cell's activations, in memory or memory-mapped, read a selection at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bae_ray.values import check_type


class Rows:
    """Activations [N, D] that lie in one or more pieces, such as a store's memory-mapped shards.

    Only the rows that are taken are read and converted to float32, so N may be larger than memory. They are not checked
    for finite numbers.
    """

    def __init__(self, pieces: Sequence[Tensor], selected: Tensor | None = None) -> None:
        """Raises `InvalidInputError` for pieces that are not real numbers."""
        for piece in pieces:
            check_type(piece, "x")
        self._pieces = pieces
        self._ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)
        self._selected = selected

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._selected is None else len(self._selected)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        return (len(self), *self._pieces[0].shape[1:])

    def select(self, rows: Tensor) -> "Rows":
        """The given rows, in that order; nothing is read."""
        return Rows(self._pieces, rows if self._selected is None else self._selected[rows])

    def take(self, rows: Tensor) -> Tensor:
        """The given rows [len(rows), D] as float32, in that order, in memory."""
        if self._selected is not None:
            rows = self._selected[rows]
        if len(self._pieces) == 1:
            return self._pieces[0][rows].float()
        taken = torch.empty(len(rows), *self.shape[1:])
        numbers = torch.bucketize(rows, self._ends, right=True)
        for number in numbers.unique().tolist():
            here = numbers == number
            start = int(self._ends[number]) - len(self._pieces[number])
            taken[here] = self._pieces[number][rows[here] - start].float()
        return taken

    def split(self, batch_size: int) -> Iterator[Tensor]:
        """All rows in order, as float32 batches."""
        for start in range(0, len(self), batch_size):
            yield self.take(torch.arange(start, min(start + batch_size, len(self))))
