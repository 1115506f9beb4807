"""The files that `bae-ray compress` and `decompress` read and write. Any process can write parts; one joins them.

Activations to compress are a cell of an activation store, or a file with one matrix. Sources and conversions are small
and may be sent to other processes, which open them there. Shapes: N rows, D d_in.
"""

import io
import json
import shutil
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.autoencoders.checkpoint import encoder_hash, model_hash
from bae_ray.compression.activations import (
    check_compressible,
    check_model,
    reconstructions,
    table_for,
    write_activations,
)
from bae_ray.compression.choices import chosen_model, chosen_scheme
from bae_ray.compression.codec import CodeOptions, CodeWriter, open_container
from bae_ray.compression.config import ArrayFormat, CompressConfig
from bae_ray.compression.container import ContainerWriter
from bae_ray.compression.header import Scheme, TableChoice
from bae_ray.compression.tables import own_model, table_of
from bae_ray.errors import InvalidInputError, UnreadableFileError
from bae_ray.files import at_hand
from bae_ray.locations import location_of, without_credentials
from bae_ray.values import check_type

TENSOR = "activations"
CODES_SUFFIXES: dict[TableChoice, str] = {"reference": ".codes", "embedded": ".codes.safetensors"}
"""Suffixes of containers: only those with a table are safetensors files."""
BATCH_ROWS = 1024


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
        stats = at_hand(Path(self.path)).stat()
        return {
            "file": location_of(Path(self.path)) or str(Path(self.path).absolute()),
            "tensor": self.tensor,
            "size": stats.st_size,
            "modified_ns": stats.st_mtime_ns,
        }

    def _load(self) -> Tensor:
        suffix = Path(self.path).suffix
        try:
            at_hand(Path(self.path))
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


class Conversion(ABC):
    """One output file. Small, and may be sent to other processes."""

    name: str
    """Path of the output, relative to the folder of outputs."""
    excluded: tuple[str, ...] = ()
    """Names of the output with other options: these must not be beside it."""
    rows: int
    block_rows: int
    """Parts begin at multiples of it."""
    autoencoder: str
    bytes_before: int
    request: dict[str, Any]
    """All that the output depends on."""

    @abstractmethod
    def write_part(self, autoencoder: Autoencoder, start: int, stop: int, file: BinaryIO) -> None:
        """Write rows `start` to `stop` - 1, in bounded memory."""

    @abstractmethod
    def join(self, parts: Sequence[Path], file: BinaryIO) -> None:
        """Write the output from its parts, in bounded memory."""


class Compression(Conversion):
    """From activations to a container of their codes."""

    def __init__(self, source: ActivationSource, autoencoder: str, name: str, config: CompressConfig) -> None:
        """Raises a `BaeRayError` where the activations cannot be compressed with the autoencoder."""
        loaded, matrix = load_autoencoder(autoencoder), source.pieces()
        check_compressible(loaded)
        if matrix[0].shape[1] != loaded.d_in:
            raise InvalidInputError(
                f"{source.name} has vectors of {matrix[0].shape[1]} numbers; the autoencoder {autoencoder} takes "
                f"{loaded.d_in}. Give the autoencoder of these activations."
            )
        self.source, self.config = source, config
        self.autoencoder = on_any_process(autoencoder)
        self.rows, self.block_rows = sum(map(len, matrix)), config.block_rows
        self.bytes_before = sum(piece.numel() * piece.element_size() for piece in matrix)
        self.options: CodeOptions = {
            "block_rows": config.block_rows,
            "threshold": config.threshold,
            "table": config.table,
        }
        rows = Rows(matrix)
        self.scheme: Scheme = (
            chosen_scheme(loaded, rows, config.prior, **self.options) if config.scheme == "auto" else config.scheme
        )
        # What it refuses, it refuses now.
        CodeWriter(io.BytesIO(), own_model(loaded, self.scheme), self.scheme, **self.options)
        # All parts have one prior; it is of the request, so that parts of another one are never joined with these.
        self.prior = chosen_model(loaded, rows, config.prior, self.scheme, **self.options)
        self.options["table"] = table_for(loaded, self.prior, config.table)
        self.name = name + CODES_SUFFIXES[self.options["table"]]
        self.excluded = tuple(name + suffix for suffix in CODES_SUFFIXES.values() if name + suffix != self.name)
        how = config.model_dump(mode="json", include={"threshold", "block_rows"})
        hashes = {"autoencoder": model_hash(loaded), "encoder": encoder_hash(loaded)}
        hashes["prior"] = table_of(self.prior).hash
        self.request = {"source": source.identity(), **hashes, "scheme": self.scheme, **how}

    @override
    def write_part(self, autoencoder: Autoencoder, start: int, stop: int, file: BinaryIO) -> None:
        batches = rows_of(self.source).select(torch.arange(start, stop)).split(BATCH_ROWS)
        write_activations(file, autoencoder, batches, self.scheme, prior=self.prior, first_row=start, **self.options)

    @override
    def join(self, parts: Sequence[Path], file: BinaryIO) -> None:
        writer: ContainerWriter | None = None
        for part in parts:
            with open_container(part) as reader:
                if self.options.get("table") == "reference":
                    reader.use_table(table_of(self.prior))
                header = reader.header._replace(block_rows=self.config.block_rows)  # a part of one block tells its own
                writer = writer or ContainerWriter(file, header, reader.table)
                writer.append(reader)
        assert writer is not None
        writer.finish()


class Decompression(Conversion):
    """From a container of codes to reconstructed activations."""

    def __init__(self, container: str, autoencoder: str, name: str, format: ArrayFormat) -> None:  # noqa: A002
        """Raises a `CompressionError` for a damaged container, or one of another autoencoder's codes."""
        loaded = load_autoencoder(autoencoder)
        with open_container(container) as reader:
            check_model(loaded, reader)
            header, digest = reader.header, reader.digest.hex()
        self.format, self.name = format, f"{name}.{format}"
        self.container, self.autoencoder = on_any_process(container), on_any_process(autoencoder)
        self.rows, self.block_rows, self.d_in = header.rows, header.block_rows, loaded.d_in
        self.bytes_before = at_hand(Path(container)).stat().st_size
        self.request = {"container": digest, "autoencoder": header.model_hash, "format": format}

    @override
    def write_part(self, autoencoder: Autoencoder, start: int, stop: int, file: BinaryIO) -> None:
        with open_container(self.container) as reader:
            for part in reconstructions(autoencoder, reader, start, stop):
                file.write(part.float().cpu().numpy().astype("<f4").tobytes())

    @override
    def join(self, parts: Sequence[Path], file: BinaryIO) -> None:
        shape = (self.rows, self.d_in)
        if self.format == "npy":
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})  # pyright: ignore[reportArgumentType]
        else:
            entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * self.rows * self.d_in]}
            text = json.dumps({TENSOR: entry}).encode()
            text = text.ljust(-(-len(text) // 8) * 8)
            file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            with open(part, "rb") as content:
                shutil.copyfileobj(content, file, 1 << 22)
