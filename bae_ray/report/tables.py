"""Tables: a sweep's runs as layer x position grids, for figures and for the terminal."""

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table


class CellGrid(NamedTuple):
    """One column of a results table over layer x position, averaged over the runs that share a cell."""

    layers: list[int]
    positions: list[int]
    values: np.ndarray[Any, np.dtype[np.float64]]
    """[L, P]; NaN where the sweep has no such run."""


def cell_grid(table: pd.DataFrame, column: str, how: Literal["mean", "min", "max"] = "mean") -> CellGrid:
    """The grid of one column of `entropy_table`; `how` combines the runs of a cell: mean, min or max."""
    grid = table.pivot_table(index="layer", columns="position", values=column, aggfunc=how)
    grid = grid.sort_index(axis=0).sort_index(axis=1)
    return CellGrid([int(x) for x in grid.index], [int(x) for x in grid.columns], grid.to_numpy(dtype=np.float64))


def print_entropies(table: pd.DataFrame) -> None:
    """Print a layer x position table of bits, each with its FVU on training and on held-out data."""
    layers, positions, bits = cell_grid(table, "entropy_bits")
    fvu_train, fvu_val = cell_grid(table, "fvu_train").values, cell_grid(table, "fvu_val").values
    printed = Table(title="Entropy in bits, FVU on training / held-out texts", title_justify="left")
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
