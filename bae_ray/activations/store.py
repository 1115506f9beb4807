"""Reading an activation store: one matrix per cell, and the text of each row."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from bae_ray.activations import layout
from bae_ray.activations.cache import DEFAULT_LIMIT_GB, FileCache
from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell, Manifest
from bae_ray.activations.ragged import Ragged
from bae_ray.activations.rows import Rows
from bae_ray.config import content_hash
from bae_ray.errors import CorruptShardError, IncompleteStoreError, InvalidInputError
from bae_ray.progress import track
from bae_ray.seeds import stream
from bae_ray.storage import Folder, Location, folder_at

FileOfShard = Callable[[int], str]


class ActivationStore:
    """A finished store, for reading. Every file is checked against its checksum before it is first used."""

    def __init__(self, folder: Folder, manifest: Manifest, cache_gb: float = DEFAULT_LIMIT_GB) -> None:
        self.folder = folder
        self.manifest = manifest
        self.cells = manifest.request.cells
        self._verified: set[str] = set()
        self._cache = FileCache(cache_gb)

    @classmethod
    def open(cls, location: Location, cache_gb: float = DEFAULT_LIMIT_GB) -> Self:
        """Open a finished store. Of a remote one, at most `cache_gb` GB are kept on this machine.

        Raises `IncompleteStoreError` where there is none.
        """
        folder = folder_at(location)
        try:
            content = folder.read(layout.MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            begun = folder.exists(layout.REQUEST)
            raise IncompleteStoreError(
                f"{folder} holds no finished activation store ({layout.MANIFEST} is missing). "
                + ("Run the same extraction again to finish it." if begun else "Make one with 'bae-ray extract'.")
            ) from error
        try:
            return cls(folder, Manifest.model_validate_json(content), cache_gb)
        except ValidationError as error:
            raise CorruptShardError(_bad_manifest(folder, content, error)) from error

    @override
    def __repr__(self) -> str:
        manifest, request = self.manifest, self.manifest.request
        parts = {"layers": request.layers, "sites": request.sites, "positions": request.positions}
        cells = ", ".join(f"{name} {' '.join(map(str, values))}" for name, values in parts.items())
        return (
            f"ActivationStore({self.folder}: {request.model['name']}, {len(self.cells)} cells of n = {manifest.n} x "
            f"d = {manifest.d} in {request.dtype}; {cells})"
        )

    def select(
        self,
        layers: Sequence[int] | None = None,
        positions: Sequence[Position] | None = None,
        sites: Sequence[str] | None = None,
    ) -> list[Cell]:
        """The cells of these layers, positions and sites (None: all). Raises `InvalidInputError` for unknown ones."""
        wanted = {"layer": layers, "position": positions, "site": sites}
        for name, values in wanted.items():
            held = {getattr(cell, name) for cell in self.cells}
            if unknown := [value for value in values or () if value not in held]:
                raise InvalidInputError(
                    f"{name} {unknown[0]} is not in the store {self.folder}; it has {sorted(held, key=str)}."
                )
        chosen = {name: values for name, values in wanted.items() if values is not None}
        return [cell for cell in self.cells if all(getattr(cell, name) in values for name, values in chosen.items())]

    @property
    def rows(self) -> pd.DataFrame:
        """A row for each row of the matrices; see `rows_table`."""
        return self.rows_table().to_pandas()

    def rows_table(self) -> pa.Table:
        """The text or token of each row of the matrices, in their order.

        A row per text, with text_id, token_ids, text and the columns of its kind; with position `all`, a row per token
        taken: text_id, position, token_id.
        """
        texts = self.texts_table()
        if "all" not in self.manifest.request.positions:
            return texts
        kept, ids = Ragged.of(texts["kept"]), Ragged.of(texts["token_ids"])
        text = np.repeat(np.arange(len(texts)), kept.lengths)
        token_ids = ids.values[(ids.ends - ids.lengths)[text] + kept.values]
        text_ids = texts["text_id"].take(pa.array(text))
        return pa.table({"text_id": text_ids, "position": pa.array(kept.values), "token_id": pa.array(token_ids)})

    @property
    def texts(self) -> pd.DataFrame:
        """A row per text: text_id, token_ids, text, and the columns of its kind."""
        return self.texts_table().to_pandas()

    def texts_table(self) -> pa.Table:
        """The same as an Arrow table."""
        return self._tables(layout.rows_file)

    @property
    def predictions(self) -> pd.DataFrame:
        """The model's answer to each prompt: text_id, label, predicted, label_token, predicted_token.

        Raises `InvalidInputError` where the texts are not prompts.
        """
        if self.manifest.request.input["kind"] != "icl":
            raise InvalidInputError(
                f"the store {self.folder} is of {self.manifest.request.input['kind']}, which have no labels. Only "
                "in-context-learning prompts have predictions: extract with --input.kind icl."
            )
        return self._tables(layout.predictions_file).to_pandas()

    def matrix(self, layer: int, position: Position, site: str = "residual") -> Tensor:
        """The activations [n, d] of one cell; a memory map of the file where the store has a single shard.

        Otherwise a copy, filled shard by shard: never more in memory than the matrix itself. Raises
        `InvalidInputError` for a cell that the store does not hold, and `CorruptShardError`.
        """
        parts = self.shards(layer, position, site)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def shards(self, layer: int, position: Position, site: str = "residual") -> list[Tensor]:
        """The activations of one cell as memory maps of its files; see `matrix`."""
        cell = Cell(layer, site, position)
        self._check_held(cell)
        with self._checked(cell.file) as paths:
            return [load_file(path)[layout.TENSOR] for path in paths]

    def iter_batches(
        self,
        layer: int,
        position: Position,
        site: str = "residual",
        *,
        batch_size: int = 512,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
    ) -> Iterator[Tensor]:
        """One pass over a cell's activations as float32 batches [batch_size, d]; the last may have fewer.

        `shuffle`: in a random order over all shards, another one in each epoch, the same for the same seed and epoch;
        else in the order of `rows`. Only the batch is read into memory.
        """
        rows = Rows(self.shards(layer, position, site))
        if not shuffle:
            yield from rows.split(batch_size)
            return
        order = torch.randperm(len(rows), generator=stream(seed, "iter_batches", epoch))
        for start in range(0, len(order), batch_size):
            yield rows.take(order[start : start + batch_size])

    def fingerprint(self, cell: Cell) -> str:
        """Identifies the content of one cell: a hash over the checksums of its shards."""
        self._check_held(cell)
        return content_hash([shard.files[cell.file(shard.shard)].checksum for shard in self.manifest.shards])

    def verify(self) -> None:
        """Check every file of the store, showing progress. Raises `CorruptShardError` that names all bad ones."""
        files = {name: record for shard in self.manifest.shards for name, record in shard.files.items()}
        bad: list[str] = []
        with track("Verifying", len(files)) as tracker:
            for name, record in files.items():
                if problem := self.folder.problem(name, record):
                    bad.append(problem)
                tracker.advance()
        if bad:
            raise CorruptShardError(_corrupt_message(self.folder, bad))

    def _check_held(self, cell: Cell) -> None:
        if cell not in self.cells:
            request = self.manifest.request
            raise InvalidInputError(
                f"the store {self.folder} holds no cell ({cell}); it has layers {list(request.layers)}, sites "
                f"{list(request.sites)} and positions {list(request.positions)}."
            )

    def _tables(self, file_of_shard: FileOfShard) -> pa.Table:
        with self._checked(file_of_shard) as paths:
            return pa.concat_tables([pq.read_table(path) for path in paths])

    @contextmanager
    def _checked(self, file_of_shard: FileOfShard) -> Iterator[list[Path]]:
        """Local paths of a file of each shard, each of them checked at least once; open them in the context."""
        wanted = {file_of_shard(s.shard): s.files[file_of_shard(s.shard)] for s in self.manifest.shards}
        if self.folder.path is None:
            try:
                with self._cache.copies(self.folder, wanted) as paths:
                    yield paths
            except CorruptShardError as error:
                raise CorruptShardError(_corrupt_message(self.folder, str(error).split("\n  "))) from error
            return
        unchecked = {name: record for name, record in wanted.items() if name not in self._verified}
        if bad := [problem for name, record in unchecked.items() if (problem := self.folder.problem(name, record))]:
            raise CorruptShardError(_corrupt_message(self.folder, bad))
        self._verified |= set(unchecked)
        yield [self.folder.path / name for name in wanted]


def _bad_manifest(folder: Folder, content: bytes, error: ValidationError) -> str:
    try:
        version = json.loads(content)["request"]["format_version"]
    except (ValueError, KeyError, TypeError):
        version = layout.FORMAT_VERSION
    if version != layout.FORMAT_VERSION:
        return (
            f"{folder} is a store of format {version}, and this bae_ray reads format {layout.FORMAT_VERSION}. Extract "
            "it anew into another folder."
        )
    return (
        f"{folder}/{layout.MANIFEST} cannot be read ({error.error_count()} errors; the first: "
        f"{error.errors()[0]['msg']}). Delete it and run the same extraction again: finished shards are kept."
    )


def _corrupt_message(folder: Folder, problems: Iterable[str]) -> str:
    listed = "\n  ".join(problems)
    return (
        f"{folder}: these files are damaged:\n  {listed}\n"
        f"Delete them and {layout.MANIFEST}, then run the same extraction again: only their shards are computed anew."
    )
