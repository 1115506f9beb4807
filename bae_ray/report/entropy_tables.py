"""Tables: a sweep's runs as layer x position grids, for figures and for the terminal."""

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from bae_ray.activations.config import Position
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


def print_entropies(table: pd.DataFrame) -> None:
    """Print, for each variant in the table of `results`, bits by layer and position with FVU on both splits."""
    for variant in variants(table):
        _print_variant(variant)


def _print_variant(variant: Variant) -> None:
    layers, positions, bits = cell_grid(variant.runs, "entropy_bits")
    fvu_train, fvu_val = cell_grid(variant.runs, "fvu_train").values, cell_grid(variant.runs, "fvu_val").values
    title = "Entropy in bits, FVU on training / held-out texts"
    printed = Table(title=f"{title}: {variant.label}" if variant.label else title, title_justify="left")
    printed.add_column("layer", justify="right")
    for position in positions:
        printed.add_column(f"pos {position}", justify="right", no_wrap=True)
    for row, layer in enumerate(layers):
        cells = [
            "-" if np.isnan(bits[row, i]) else f"{bits[row, i]:.0f}  {fvu_train[row, i]:.2f}/{fvu_val[row, i]:.2f}"
            for i in range(len(positions))
        ]
        printed.add_row(str(layer), *cells)
    console = Console()
    Console(width=max(console.width, 12 + 18 * len(positions))).print(printed)
