"""Tables: a sweep's runs as layer x position grids, for figures and for the terminal."""

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table

from bae_ray.activations.config import Position
from bae_ray.report.terminal import text_table
from bae_ray.report.variants import Variant, variants
from bae_ray.training.results import position_order


class CellGrid(NamedTuple):
    """One column of a results table over layer x position, averaged over the runs that share a cell."""

    layers: list[int]
    positions: list[Position]
    values: np.ndarray[Any, np.dtype[np.float64]]
    """[L, P]; NaN where the sweep has no such run."""


def cell_grid(table: pd.DataFrame, column: str, how: Literal["mean", "min", "max"] = "mean") -> CellGrid:
    """The grid of one column of runs of one variant; `how` combines the runs of a cell: mean, min or max."""
    grid = table.pivot_table(index="layer", columns="position", values=column, aggfunc=how, sort=False).sort_index()
    positions = sorted(table["position"].unique().tolist(), key=position_order)
    return CellGrid([int(x) for x in grid.index], positions, grid[positions].to_numpy(dtype=np.float64))


def entropy_tables(table: pd.DataFrame) -> list[Table]:
    """Of each variant in the table of `results`: bits by layer and position with FVU on both splits."""
    return [_of_variant(variant) for variant in variants(table)]


def _of_variant(variant: Variant) -> Table:
    layers, positions, bits = cell_grid(variant.runs, "entropy_bits")
    train, val = (cell_grid(variant.runs, name).values for name in ("fvu_train", "fvu_val"))
    rows: list[dict[str, object]] = [{"layer": layer} for layer in layers]
    for (row, column), value in np.ndenumerate(bits):
        cell = "-" if np.isnan(value) else f"{value:.0f}  {train[row, column]:.2f}/{val[row, column]:.2f}"
        rows[row][f"pos {positions[column]}"] = cell
    title = "Entropy in bits, FVU on training / held-out texts"
    return text_table(f"{title}: {variant.label}" if variant.label else title, rows)
