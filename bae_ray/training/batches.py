"""Batches of normalised activations: from one copy on the device where it fits, else read ahead from disk."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import psutil
import torch
from torch import Tensor

from bae_ray.activations.rows import Rows

Placement = Literal["device", "disk"]

READ_AHEAD = 4
"""Number of batches that are read while the device computes."""
ROWS_AT_ONCE = 8192
SHARE_OF_MEMORY = 0.4
"""Largest share of the device's free memory for the copy: several trainings may start at once."""


class Batch(NamedTuple):
    """Normalised activations [N, D] and the target [N, D] of their reconstruction."""

    x: Tensor
    target: Tensor


class Batches:
    """The rows of a split in any order, `batch_size` at a time, normalised, on the device.

    `placement` says where the copy is. It changes the speed, and not the numbers.
    """

    def __init__(
        self,
        x: Rows,
        target: Rows | None,
        normalize: Callable[[Tensor], Tensor],
        normalize_target: Callable[[Tensor], Tensor],
        device: torch.device,
        placement: Placement | None = None,
    ) -> None:
        self._x, self._target = x, target
        self._normalize, self._normalize_target = normalize, normalize_target
        self._device = device
        n_bytes = 4 * x.shape[0] * x.shape[1] * (2 if target else 1)
        self.resident: Batch | None = None
        """All rows in their order, where they are on the device."""
        if (placement or ("device" if n_bytes <= SHARE_OF_MEMORY * free_memory(device) else "disk")) == "device":
            self.resident = self._read_all()

    def __len__(self) -> int:
        return len(self._x)

    def batches(self, order: Tensor, batch_size: int, first: int = 0, partial: bool = False) -> Iterator[Batch]:
        """Batches of the rows in `order`, from number `first` on; a smaller last batch only if `partial`."""
        selections = list(order.split(batch_size))[first : None if partial else len(order) // batch_size]
        if self.resident is not None:
            x, target = self.resident
            for rows in selections:
                here = rows.to(self._device)
                taken = x[here]
                yield Batch(taken, taken if target is x else target[here])
            return
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            reading: list[Future[Batch]] = [reader.submit(self._read, rows) for rows in selections[:READ_AHEAD]]
            for rows in [*selections[READ_AHEAD:], *[None] * len(reading)]:
                batch = reading.pop(0).result()
                if rows is not None:
                    reading.append(reader.submit(self._read, rows))
                yield batch

    def _read_all(self) -> Batch:
        """All rows, read in pieces, so that memory never holds two copies."""
        x = torch.empty(self._x.shape, device=self._device)
        target = torch.empty_like(x) if self._target else x
        for rows in torch.arange(len(self._x)).split(ROWS_AT_ONCE):
            piece = self._read(rows)
            x[rows[0] : rows[-1] + 1] = piece.x
            if self._target:
                target[rows[0] : rows[-1] + 1] = piece.target
        return Batch(x, target)

    def _read(self, rows: Tensor) -> Batch:
        x = self._normalize(self._moved(self._x.take(rows)))
        return Batch(x, self._normalize_target(self._moved(self._target.take(rows))) if self._target else x)

    def _moved(self, rows: Tensor) -> Tensor:
        return rows.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else rows


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
