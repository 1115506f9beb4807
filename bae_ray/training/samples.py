"""The samples of a training: those that are trained on, those held out to measure on, normalised, in batches.

Batches come from one copy on the device where it fits, else they are read ahead from disk.

Shapes: N samples, D d_in.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, Self

import psutil
import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import column_mean
from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import TrainingError
from bae_ray.seeds import stream

Placement = Literal["device", "disk"]

READ_AHEAD = 4
"""Number of batches that are read while the device computes."""
ROWS_AT_ONCE = 8192
SHARE_OF_MEMORY = 0.4
"""Largest share of the device's free memory for the copy: several trainings may start at once."""


def held_out_count(n: int, val_fraction: float) -> int:
    """How many of n samples are held out: at least two, and at least two are trained on."""
    return min(max(round(n * val_fraction), 2), n - 2)


def split_rows(n: int, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the rows of n samples that are trained on, and of those held out, drawn at random; in order."""
    order = torch.randperm(n, generator=stream(seed, "split"))
    held_out = held_out_count(n, val_fraction)
    return order[held_out:].sort().values, order[:held_out].sort().values


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
        return cls(x, target, *split_rows(len(x), val_fraction, seed))

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


class Batch(NamedTuple):
    """Normalised activations [N, D] and the target [N, D] of their reconstruction."""

    x: Tensor
    target: Tensor


class Batches:
    """The rows of a split in any order, `batch_size` at a time, normalised, on the device.

    `placement` says where the copy is. It changes the speed, and not the numbers. `place` is the memory for it [N, D],
    if it is there already.
    """

    def __init__(
        self,
        x: Rows,
        target: Rows | None,
        normalize: Callable[[Tensor], Tensor],
        normalize_target: Callable[[Tensor], Tensor],
        device: torch.device,
        placement: Placement | None = None,
        place: Batch | None = None,
    ) -> None:
        self._x, self._target = x, target
        self._normalize, self._normalize_target = normalize, normalize_target
        self._device = device
        self.resident: Batch | None = None
        """All rows in their order, where they are on the device."""
        if (placement or placement_of(x.shape, bool(target), device)) == "device":
            self.resident = self._read_all(place)

    @property
    def cells(self) -> list["Batches"]:
        """The cells that these are batches of, itself, as those of several have them (side_by_side.py)."""
        return [self]

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

    def _read_all(self, place: Batch | None) -> Batch:
        """All rows, read in pieces, so that memory never holds two copies."""
        x, target = place or empty_batch(self._x.shape, self._device, bool(self._target))
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


def empty_batch(shape: Sequence[int], device: torch.device, has_target: bool) -> Batch:
    """Memory for a batch of this shape; without a target, both of its tensors are one."""
    x = torch.empty(*shape, device=device)
    return Batch(x, torch.empty_like(x) if has_target else x)


def placement_of(shape: Sequence[int], has_target: bool, device: torch.device, cells: int = 1) -> Placement:
    """On the device where that has room for the rows of this shape of all cells that are trained on together."""
    n_bytes = 4 * math.prod(shape) * (2 if has_target else 1) * cells
    return "device" if n_bytes <= SHARE_OF_MEMORY * free_memory(device) else "disk"


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
