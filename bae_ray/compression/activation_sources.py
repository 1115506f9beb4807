"""Activations to compress: a cell of an activation store, or a file with one matrix.

Sources are small and may be sent to other processes, which open them there. Shapes: N rows, D d_in.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError, UnreadableFileError
from bae_ray.storage import without_credentials
from bae_ray.values import check_type


def on_any_process(location: str) -> str:
    """A location that is valid in processes with another working directory: a local path is made absolute."""
    return str(Path(location).absolute()) if Path(location).exists() else location


class StoreSource(NamedTuple):
    """One cell of an activation store."""

    location: str
    layer: int
    site: str
    position: Position

    @property
    def cell(self) -> Cell:
        """The cell."""
        return Cell(self.layer, self.site, self.position)

    @property
    def name(self) -> str:
        """What outputs are called after."""
        return self.cell.name

    def pieces(self) -> list[Tensor]:
        """The matrix in one or more pieces, memory-mapped. Raises a `StoreError`, or `InvalidInputError`."""
        return ActivationStore.open(self.location).shards(self.layer, self.position, self.site)

    def identity(self) -> dict[str, Any]:
        """What tells these activations from others."""
        fingerprint = ActivationStore.open(self.location).fingerprint(self.cell)
        return {"store": without_credentials(self.location), "cell": self.name, "fingerprint": fingerprint}


class FileSource(NamedTuple):
    """A matrix in a `.npy` or `.safetensors` file."""

    path: str
    tensor: str | None = None
    """Name of the tensor in a safetensors file; None: its only tensor."""

    @property
    def name(self) -> str:
        """What outputs are called after."""
        return Path(self.path).stem

    def pieces(self) -> list[Tensor]:
        """The matrix, memory-mapped. Raises `UnreadableFileError`, and `InvalidInputError` where it is no matrix."""
        matrix = self._load()
        check_type(matrix, self.path)
        if matrix.ndim != 2 or not len(matrix):
            raise InvalidInputError(
                f"{self.path} holds {matrix.dtype} of shape {tuple(matrix.shape)}; expected activations [n, d], at "
                "least one row."
            )
        return [matrix]

    def identity(self) -> dict[str, Any]:
        """What tells these activations from others."""
        stats = Path(self.path).stat()
        return {
            "file": str(Path(self.path).absolute()),
            "tensor": self.tensor,
            "size": stats.st_size,
            "modified_ns": stats.st_mtime_ns,
        }

    def _load(self) -> Tensor:
        suffix = Path(self.path).suffix
        try:
            if suffix == ".npy":
                return torch.from_numpy(np.load(self.path, mmap_mode="c", allow_pickle=False))
            if suffix == ".safetensors":
                return self._only(load_file(self.path))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise UnreadableFileError(f"{self.path} cannot be read as {suffix}: {error}.") from error
        raise InvalidInputError(f"{self.path} ends in '{suffix}'; expected a store, or a .npy or .safetensors file.")

    def _only(self, tensors: dict[str, Tensor]) -> Tensor:
        name = self.tensor or (next(iter(tensors)) if len(tensors) == 1 else "")
        if name not in tensors:
            raise InvalidInputError(
                f"{self.path} holds the tensors {', '.join(tensors) or 'none'}; "
                + (f"'{self.tensor}' is not among them." if self.tensor else "say which one with --tensor.")
            )
        return tensors[name]


ActivationSource = StoreSource | FileSource


def rows_of(source: ActivationSource) -> Rows:
    """The activations [N, D] of a source; nothing is read yet."""
    return Rows(source.pieces())
