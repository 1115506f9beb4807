"""Tables for the terminal."""

import pandas as pd
from rich.console import Console
from rich.table import Table


def print_entropies(table: pd.DataFrame) -> None:
    """Print a layer x position table of bits, each with its FVU on training and on held-out data."""
    grid = Table(title="Entropy in bits (FVU on training / held-out texts)", title_justify="left")
    grid.add_column("layer", justify="right")
    positions = sorted(table["position"].unique())
    for position in positions:
        grid.add_column(f"position {position}", justify="right")
    mean = table.groupby(["layer", "position"])[["entropy_bits", "fvu_train", "fvu_val"]].mean()
    for layer in sorted(table["layer"].unique()):
        cells = [layer_cell(mean, layer, position) for position in positions]
        grid.add_row(str(layer), *cells)
    Console(soft_wrap=True).print(grid)


def layer_cell(mean: pd.DataFrame, layer: int, position: int) -> str:
    """One entry of the table; a dash where the sweep has no such run."""
    if (layer, position) not in mean.index:
        return "-"
    row = mean.loc[(layer, position)]
    return f"{row['entropy_bits']:.0f} ({row['fvu_train']:.2f} / {row['fvu_val']:.2f})"
