"""Exporting cells of an activation store to files for other tools, with the texts beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path

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
    """Write the chosen cells (None: all) below `out`, with rows.parquet; gives the paths.

    bfloat16, which NumPy and Arrow lack, is written as float32. Raises `InvalidInputError` where the store holds none
    of the cells, or `out` has files.
    """
    for name, wanted, held in (
        ("layer", layers, {cell.layer for cell in store.cells}),
        ("position", positions, {cell.position for cell in store.cells}),
        ("site", sites, {cell.site for cell in store.cells}),
    ):
        if unknown := [value for value in wanted or () if value not in held]:
            raise InvalidInputError(
                f"{name} {unknown[0]} is not in the store {store.folder}; it has {sorted(held, key=str)}."
            )
    if out.exists() and any(out.iterdir()):
        raise InvalidInputError(f"{out} is not empty: give a folder that is empty or new.")
    cells = [
        cell
        for cell in store.cells
        if (layers is None or cell.layer in layers)
        and (positions is None or cell.position in positions)
        and (sites is None or cell.site in sites)
    ]
    write: dict[ExportFormat, Callable[[ActivationStore, Path, list[Cell]], list[Path]]] = {
        "npy": _write_npy,
        "parquet": _write_parquet,
        "release": _write_release,
    }
    rows = out / "rows.parquet"
    with atomic_path(rows) as temporary:
        pq.write_table(store.rows_table(), temporary, compression="zstd")
    return [*write[format](store, out, cells), rows]


def _write_npy(store: ActivationStore, out: Path, cells: list[Cell]) -> list[Path]:
    """CELL.npy, filled shard by shard."""
    written: list[Path] = []
    with track("Exporting", len(cells)) as tracker:
        for cell in cells:
            written.append(out / f"{cell.name}.npy")
            with atomic_path(written[-1]) as temporary:
                parts = _parts(store, cell)
                shape = (sum(map(len, parts)), store.manifest.d)
                array = np.lib.format.open_memmap(temporary, "w+", _numpy(parts[0][:0]).dtype, shape)
                start = 0
                for part in parts:
                    array[start : start + len(part)] = _numpy(part)
                    start += len(part)
                array.flush()
            tracker.advance()
    return written


def _write_parquet(store: ActivationStore, out: Path, cells: list[Cell]) -> list[Path]:
    """CELL.parquet: text_id and, as fixed-shape tensors, activation; a row group per shard."""
    text_ids = store.rows_table()["text_id"]
    written: list[Path] = []
    with track("Exporting", len(cells)) as tracker:
        for cell in cells:
            written.append(out / f"{cell.name}.parquet")
            with atomic_path(written[-1]) as temporary:
                parts = _parts(store, cell)
                kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(_numpy(parts[0][:0]).dtype), [store.manifest.d])
                schema = pa.schema([("text_id", pa.int64()), ("activation", kind)])
                with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                    start = 0
                    for part in parts:
                        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(_numpy(part))
                        ids = text_ids.slice(start, len(part)).combine_chunks()
                        writer.write_table(pa.table([ids, tensors], schema=schema))
                        start += len(part)
            tracker.advance()
    return written


def _write_release(store: ActivationStore, out: Path, cells: list[Cell]) -> list[Path]:
    """SITE/POSITION.safetensors: tensors "0", "1", ... [n, d], the list of the layers in order."""
    groups: dict[tuple[str, Position], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.site, cell.position), []).append(cell)
    written: list[Path] = []
    with track("Exporting", len(groups)) as tracker:
        for (site, position), group in groups.items():
            written.append(out / site / f"position-{position}.safetensors")
            layers = {str(i): store.matrix(cell.layer, cell.position, cell.site) for i, cell in enumerate(group)}
            with atomic_path(written[-1]) as temporary:
                save_file(layers, temporary, {"layers": ",".join(str(cell.layer) for cell in group)})
            tracker.advance()
    return written


def _parts(store: ActivationStore, cell: Cell) -> list[Tensor]:
    return store.shards(cell.layer, cell.position, cell.site)


def _numpy(part: Tensor) -> np.ndarray:
    return (part.float() if part.dtype == torch.bfloat16 else part).numpy()
