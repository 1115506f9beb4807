"""Exporting cells of an activation store to files for other tools, with the texts beside them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from bae_ray.activations.config import ExportFormat, Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.files import atomic_path
from bae_ray.progress import track


def export_cells(
    store: ActivationStore,
    out: Path,
    format: ExportFormat,  # noqa: A002 - the option's name
    layers: Sequence[int] | None = None,
    positions: Sequence[Position] | None = None,
    sites: Sequence[str] | None = None,
) -> list[Path]:
    """Write the chosen cells (None: all) below `out`, with rows.parquet; returns the paths.

    bfloat16, which NumPy and Arrow lack, is written as float32. Raises `InvalidInputError` where the store holds none
    of the cells, or `out` has files.
    """
    cells = store.select(layers, positions, sites)
    if out.exists() and any(out.iterdir()):
        raise InvalidInputError(f"{out} is not empty: give a folder that is empty or new.")
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:  # a file for each
        groups.setdefault((cell.site, cell.position) if format == "release" else cell, []).append(cell)
    rows, table = out / "rows.parquet", store.rows_table()
    with atomic_path(rows) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    write_parquet = partial(_write_parquet, text_ids=table["text_id"])
    writers = {"npy": _write_npy, "parquet": write_parquet, "release": _write_release}
    written: list[Path] = []
    with track("Exporting", len(groups)) as tracker:
        for group in groups.values():
            name = f"{group[0].name}.{format}"
            if format == "release":
                name = f"{group[0].site}/position-{group[0].position}.safetensors"
            written.append(out / name)
            with atomic_path(written[-1]) as temporary:
                writers[format](store, group, temporary)
            tracker.advance()
    return [*written, rows]


def _write_npy(store: ActivationStore, cells: list[Cell], file: Path) -> None:
    """An array, filled shard by shard."""
    parts = _parts(store, cells[0])
    shape = (sum(map(len, parts)), store.manifest.d)
    array = np.lib.format.open_memmap(file, "w+", _numpy(parts[0][:0]).dtype, shape)
    start = 0
    for part in parts:
        array[start : start + len(part)] = _numpy(part)
        start += len(part)
    array.flush()


def _write_parquet(store: ActivationStore, cells: list[Cell], file: Path, text_ids: pa.ChunkedArray) -> None:
    """text_id and, as fixed-shape tensors, activation; a row group per shard."""
    parts = _parts(store, cells[0])
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(_numpy(parts[0][:0]).dtype), [store.manifest.d])
    schema = pa.schema([("text_id", pa.int64()), ("activation", kind)])
    start = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in parts:
            tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(_numpy(part))
            ids = text_ids.slice(start, len(part)).combine_chunks()
            writer.write_table(pa.table([ids, tensors], schema=schema))
            start += len(part)


def _write_release(store: ActivationStore, cells: list[Cell], file: Path) -> None:
    """Tensors "0", "1", ... [n, d], the list of the layers in order."""
    layers = {str(i): store.matrix(cell.layer, cell.position, cell.site) for i, cell in enumerate(cells)}
    save_file(layers, file, {"layers": ",".join(str(cell.layer) for cell in cells)})


def _parts(store: ActivationStore, cell: Cell) -> list[Tensor]:
    return store.shards(cell.layer, cell.position, cell.site)


def _numpy(part: Tensor) -> np.ndarray:
    return (part.float() if part.dtype == torch.bfloat16 else part).numpy()
