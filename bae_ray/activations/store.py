"""The activation store: vectors of a language model on disk, by cell and shard.

    manifest.json                         written last: what the store holds, and a checksum per file
    request.json                          written first: what the store is for
    rows.json                             how many texts were read, kept, and left out
    rows/00003.parquet                    text_id, token_ids, text of the texts of shard 3
    cells/residual/layer-05/position-00016/00003.safetensors
                                          their activations: one tensor `activations` [n, d]
    receipts/00003.json                   written when every file of shard 3 is: its checksums

Rows stand in the same order in every file of a shard, so row i of any cell's matrix belongs to row i of `rows`.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import pandas as pd
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bae_ray.activations.config import Precision
from bae_ray.config import content_hash
from bae_ray.errors import CorruptShardError, ForeignStoreError, IncompleteStoreError, InvalidInputError
from bae_ray.files import TEMPORARY_SUFFIX, atomic_path, checksum, write_text

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REQUEST = "request.json"
TENSOR = "activations"


class Cell(NamedTuple):
    """One (layer, site, position) of a store; its activations are one matrix [n, d]."""

    layer: int
    site: str
    position: int

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.site}, position {self.position}"

    def file(self, shard: int) -> str:
        """Path of one shard of this cell, relative to the store."""
        return f"cells/{self.site}/layer-{self.layer:02d}/position-{self.position:05d}/{shard:05d}.safetensors"


def rows_file(shard: int) -> str:
    """Path of the rows of one shard, relative to the store."""
    return f"rows/{shard:05d}.parquet"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(_Record):
    """What a store is for; two stores with equal requests hold the same vectors."""

    format_version: Literal[1] = FORMAT_VERSION
    model: dict[str, Any]
    tokenizer: dict[str, Any]
    corpus: dict[str, Any]
    layers: tuple[int, ...]
    sites: tuple[str, ...]
    positions: tuple[int, ...]
    dtype: Precision
    batch_size: int
    shard_size: int


class Receipt(_Record):
    """One finished shard: the number of its rows, and the checksum of each of its files."""

    shard: int
    n: int
    files: dict[str, str]


class Manifest(_Record):
    """What a finished store holds."""

    request: Request
    d: int
    n: int
    texts_read: int
    """Texts of the corpus that were looked at."""
    texts_too_short: int
    """How many of them did not reach the last position."""
    shards: tuple[Receipt, ...]


class StoreWriter:
    """Writes a store shard by shard; any number of processes may write different shards at once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def claim(self, request: Request) -> bool:
        """Make the folder this request's store; whether it is new.

        Raises `ForeignStoreError` where it is already something else.
        """
        file = self.path / REQUEST
        if file.exists():
            try:
                found = Request.model_validate_json(file.read_text(encoding="utf-8"))
            except ValidationError as error:
                raise ForeignStoreError(
                    f"{file} is not the request of a store of format {FORMAT_VERSION} ({error.error_count()} fields do "
                    "not fit). Choose another output folder."
                ) from error
            if found != request:
                raise ForeignStoreError(
                    f"{self.path} holds the store of a different run: {'; '.join(_differences(found, request))}. "
                    "Stores are never mixed or overwritten: choose another output folder, or delete this one."
                )
        elif self.path.exists() and any(file.suffix != TEMPORARY_SUFFIX for file in self.path.iterdir()):
            raise ForeignStoreError(
                f"{self.path} is not empty and holds no activation store. Choose an empty or a new output folder."
            )
        else:
            write_text(file, request.model_dump_json(indent=2) + "\n")
            return True
        return False

    def give_up(self) -> None:
        """Remove a store that was claimed for nothing."""
        shutil.rmtree(self.path)

    def write_shard(self, shard: int, vectors: dict[Cell, Tensor]) -> Receipt:
        """Write the [n, d] activations of every cell of a shard, then its receipt."""
        names = [rows_file(shard)]
        for cell, matrix in vectors.items():
            names.append(cell.file(shard))
            with atomic_path(self.path / names[-1]) as temporary:
                save_file({TENSOR: matrix}, temporary)
        files = {name: checksum(self.path / name) for name in names}
        receipt = Receipt(shard=shard, n=len(next(iter(vectors.values()))), files=files)
        write_text(self._receipt_file(shard), receipt.model_dump_json(indent=2) + "\n")
        return receipt

    def bytes_written(self) -> int:
        """Bytes of the activations that are there already."""
        return sum(file.stat().st_size for file in (self.path / "cells").rglob("*.safetensors"))

    def begin_attempt(self, shard: int) -> int:
        """Count an attempt at a shard, across workers that died on it; which attempt this is, from 1."""
        file = self.path / "attempts" / f"{shard:05d}"
        attempt = int(file.read_text(encoding="utf-8")) + 1 if file.exists() else 1
        write_text(file, str(attempt))
        return attempt

    def forget_attempts(self) -> None:
        """Start counting attempts anew."""
        shutil.rmtree(self.path / "attempts", ignore_errors=True)

    def receipt(self, shard: int) -> Receipt | None:
        """The receipt of a shard, if it is finished and its files are still there."""
        file = self._receipt_file(shard)
        if not file.exists():
            return None
        try:
            receipt = Receipt.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError:  # damaged: the shard is computed again
            return None
        return receipt if all((self.path / name).exists() for name in receipt.files) else None

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the store readable."""
        write_text(self.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")

    def _receipt_file(self, shard: int) -> Path:
        return self.path / "receipts" / f"{shard:05d}.json"


class ActivationStore:
    """A finished store, for reading. Every file is checked against its checksum before it is first used."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        request = manifest.request
        self.cells = tuple(
            Cell(layer, site, position)
            for layer in request.layers
            for site in request.sites
            for position in request.positions
        )
        self._verified: set[str] = set()

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a finished store. Raises `IncompleteStoreError` where there is none."""
        path = Path(path).absolute()  # workers that are given it have another working folder
        try:
            text = (path / MANIFEST).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            begun = (path / REQUEST).exists()
            raise IncompleteStoreError(
                f"{path} holds no finished activation store ({MANIFEST} is missing). "
                + ("Run the same extraction again to finish it." if begun else "Make one with 'bae-ray extract'.")
            ) from error
        try:
            return cls(path, Manifest.model_validate_json(text))
        except ValidationError as error:
            raise CorruptShardError(
                f"{path / MANIFEST} cannot be read ({error.error_count()} errors; the first: "
                f"{error.errors()[0]['msg']}). Delete it and run the same extraction again: finished shards are kept."
            ) from error

    @property
    def rows(self) -> pd.DataFrame:
        """text_id, token_ids and text of every row, in the order of the matrices."""
        return pd.concat(
            [pq.read_table(self._checked(rows_file(s.shard), s)).to_pandas() for s in self.manifest.shards],
            ignore_index=True,
        )

    def matrix(self, layer: int, position: int, site: str = "residual") -> Tensor:
        """The activations [n, d] of one cell; a memory map of the file where the store has a single shard.

        Raises `InvalidInputError` for a cell that the store does not hold, and `CorruptShardError`.
        """
        parts = self.shards(layer, position, site)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def shards(self, layer: int, position: int, site: str = "residual") -> list[Tensor]:
        """The activations of one cell as memory maps of its files; see `matrix`."""
        cell = Cell(layer, site, position)
        self._check_held(cell)
        return [load_file(self._checked(cell.file(s.shard), s))[TENSOR] for s in self.manifest.shards]

    def fingerprint(self, cell: Cell) -> str:
        """Identifies the content of one cell: a hash over the checksums of its shards."""
        self._check_held(cell)
        return content_hash([shard.files[cell.file(shard.shard)] for shard in self.manifest.shards])

    def _check_held(self, cell: Cell) -> None:
        if cell not in self.cells:
            request = self.manifest.request
            raise InvalidInputError(
                f"the store {self.path} holds no cell ({cell}); it has layers {list(request.layers)}, sites "
                f"{list(request.sites)} and positions {list(request.positions)}."
            )

    def verify(self) -> None:
        """Check every file of the store. Raises `CorruptShardError` that names all bad ones."""
        bad = [problem for s in self.manifest.shards for name in s.files if (problem := self._problem(name, s))]
        if bad:
            raise CorruptShardError(_corrupt_message(self.path, bad))

    def _checked(self, name: str, receipt: Receipt) -> Path:
        if name not in self._verified:
            if problem := self._problem(name, receipt):
                raise CorruptShardError(_corrupt_message(self.path, [problem]))
            self._verified.add(name)
        return self.path / name

    def _problem(self, name: str, receipt: Receipt) -> str | None:
        file = self.path / name
        if not file.exists():
            return f"{name} is missing"
        found = checksum(file)
        return None if found == receipt.files[name] else f"{name} has checksum {found}, expected {receipt.files[name]}"


def _corrupt_message(path: Path, problems: Iterable[str]) -> str:
    listed = "\n  ".join(problems)
    return (
        f"{path}: these files are damaged:\n  {listed}\n"
        f"Delete them and {MANIFEST}, then run the same extraction again: only their shards are computed anew."
    )


def _differences(found: Request, wanted: Request) -> list[str]:
    ours, theirs = wanted.model_dump(mode="json"), found.model_dump(mode="json")
    return [f"{key} is {theirs[key]} there, {ours[key]} here" for key in ours if ours[key] != theirs[key]]


def store_bytes(n: int, d: int, n_cells: int, bytes_per_number: int) -> int:
    """Bytes that the activations of a store take on disk, headers left aside."""
    return n * d * n_cells * bytes_per_number


def free_bytes(path: Path) -> int:
    """Free space of the file system that `path` is or will be on."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    stats = os.statvfs(existing)
    return stats.f_bavail * stats.f_frsize
