"""Checks of a training's inputs, before it begins.

Shapes: N samples, D d_in.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import ArchitectureConfig
from bae_ray.autoencoders.architectures import architecture_of
from bae_ray.errors import InvalidInputError, OutOfMemoryError, TrainingError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.samples import ROWS_AT_ONCE, free_memory
from bae_ray.values import largest

Members = Sequence[tuple[ArchitectureConfig, TrainingConfig]]
"""What is trained together: an architecture and its training for each autoencoder."""

SHARED = ("epochs", "batch_size", "val_fraction", "normalize", "precision", "compile", "graph", "seed")
"""Fields of the training that members trained together have in common: they share the batches and the process."""

LARGEST = torch.finfo(torch.float32).max / 4
"""Largest activation that can be trained on: the difference of two such numbers is finite."""


class Given(NamedTuple):
    """The checked inputs of a training."""

    cells: list[tuple[Rows, Rows | None]]
    """Activations and target of each cell."""
    device: torch.device
    shared: TrainingConfig
    """The config from which the fields of `SHARED` are read."""


def checked(
    data: Sequence[tuple[object, object]], of: Sequence[int], members: Members, device: str | torch.device
) -> Given:
    """Check a training's inputs: activations and target of each cell, and the number of each member's cell.

    Raises `InvalidInputError`, `TrainingError` and `OutOfMemoryError`.
    """
    found, shared = _available(device), _shared_config(members)
    cells = [(as_rows(x), None if target is None else as_rows(target)) for x, target in data]
    shape = cells[0][0].shape
    for number, (x, target) in enumerate(cells):
        check_activations(x, target, [member for member, cell in zip(members, of, strict=True) if cell == number])
        if x.shape != shape or (target is None) != (cells[0][1] is None):
            raise InvalidInputError(
                f"the activations of cell {number} have shape {x.shape}, those of cell 0 {shape}, and either both or "
                "neither have a target. Cells that are trained as one share the order of their samples: train those "
                "that differ apart."
            )
    _check_memory(members, shape[1], found)
    return Given(cells, found, shared)


def _shared_config(members: Members) -> TrainingConfig:
    """The config from which the fields of `SHARED` are read.

    Raises `InvalidInputError` where there are no members, or they differ in such a field.
    """
    if not members:
        raise InvalidInputError("there is nothing to train: give at least one architecture with its training.")
    first = members[0][1]
    for field in SHARED:
        for number, (_, training) in enumerate(members):
            if getattr(training, field) != getattr(first, field):
                raise InvalidInputError(
                    f"training.{field} is {getattr(training, field)} for member {number} and {getattr(first, field)} "
                    "for member 0. Members trained together share it: train those that differ apart."
                )
    return first


def _available(name: str | torch.device) -> torch.device:
    """The device of this name. Raises `InvalidInputError` where torch has none."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(f"device is {name} but torch finds no GPU here. Use cpu, or install torch for CUDA.")
    return device


def as_rows(x: object) -> Rows:
    """Activations given as `Rows` or as a tensor. A tensor on a GPU is copied to the CPU: batches go back to the GPU.

    Raises `TrainingError` for anything else.
    """
    if isinstance(x, Rows):
        return x
    if not isinstance(x, Tensor):
        raise TrainingError(f"activations are a {type(x).__name__}; expected a torch.Tensor [n, d] or Rows.")
    try:
        return Rows([x.detach().cpu()])
    except InvalidInputError as error:
        raise TrainingError(str(error)) from error


def _check_memory(members: Members, width: int, device: torch.device) -> None:
    """Raise `OutOfMemoryError` where the members do not fit into the free memory of the device.

    Counted are weights, gradients, Adam's two moments and about four batches of latents.
    """
    widths = [architecture.model_copy(update={"d_in": width}).widths() for architecture, _ in members]
    needed = sum(
        4 * (4 * 2 * d_in * d_latent + 4 * training.batch_size * d_latent)
        for (d_in, d_latent), (_, training) in zip(widths, members, strict=True)
    )
    if needed > (free := free_memory(device)):
        widest = max(d_latent for _, d_latent in widths)
        raise OutOfMemoryError(
            f"{len(members)} autoencoders of up to {widest:,} latents on {width} dimensions need {needed / 1e9:,.1f} "
            f"GB; {device} has {free / 1e9:,.1f} GB free. Lower expansion, d_latent or batch_size."
        )


def check_activations(x: Rows, target: Rows | None, members: Members) -> None:
    """Raise `TrainingError` where autoencoders cannot be trained on these activations [N, D] and this target."""
    if len(x.shape) != 2 or len(x) < 4:
        raise TrainingError(f"activations have shape {x.shape}; expected [n, d] with n of 4 or more.")
    for architecture, _ in members:
        if architecture.d_in not in (None, x.shape[1]):
            raise TrainingError(
                f"d_in is {architecture.d_in} but the activations are {x.shape[1]} wide. Leave d_in out: it is taken "
                "from them."
            )
        if (architecture_of(architecture).reconstructs == "target") != (target is not None):
            wanted = "needs target activations" if target is None else "takes no target activations"
            raise TrainingError(f"architecture {type(architecture).__name__} {wanted}; only a transcoder has a target.")
    if target is not None and target.shape != x.shape:
        raise TrainingError(
            f"the target has shape {target.shape} but the activations {x.shape}. Both must come from the same texts "
            "and positions of one model."
        )
    for rows in (x, target):
        if rows is not None:
            _check_values(rows)


def _check_values(rows: Rows) -> None:
    """Raise `TrainingError` for numbers that are not finite or too large, and for rows that are all the same."""
    first, start, identical = rows.take(torch.tensor([0])), 0, True
    for batch in rows.split(ROWS_AT_ONCE):
        if not (size := largest(batch)) <= LARGEST:
            if math.isfinite(size):
                raise TrainingError(
                    f"activations hold numbers as large as {size:.3g}; expected at most {LARGEST:.3g}, so that "
                    "differences between them are within float32's range. Divide all of them by one number."
                )
            row = start + int((~torch.isfinite(batch)).any(1).nonzero()[0])
            raise TrainingError(
                f"activations hold NaN or infinite numbers (in float32), first in row {row}. Extract them anew."
            )
        identical = identical and bool((batch == first).all())
        start += len(batch)
    if identical:
        raise TrainingError(
            f"all {len(rows)} activations are identical, so their entropy is 0 bits and FVU is undefined. Leave this "
            "cell out; a position that always holds the same token, as the start token at 0, is the usual reason."
        )
