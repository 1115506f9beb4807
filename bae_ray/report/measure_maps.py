"""Heat maps of layers x positions, one for each measure."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from bae_ray.report.entropy_tables import cell_grid, variants
from bae_ray.report.figures import heat_map
from bae_ray.report.measures import MEASURES

ACROSS = 4
"""Maps beside each other."""


def measure_maps(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A map of each of these columns, means over the runs of a cell; a block for each variant of the rows."""
    table = table.astype(dict.fromkeys(names, float))
    blocks = variants(table)
    down = -(-len(names) // ACROSS)
    figure = Figure(figsize=(4.5 * min(len(names), ACROSS), 3.6 * down * len(blocks)))  # a layout takes seconds
    for block, variant in zip(figure.subfigures(len(blocks), 1, squeeze=False)[:, 0], blocks, strict=True):
        block.subplots_adjust(left=0.06, right=0.97, top=1 - 0.25 / down, bottom=0.2 / down, wspace=0.35, hspace=0.55)
        for number, name in enumerate(names):
            axes = block.add_subplot(down, min(len(names), ACROSS), number + 1)
            colors, measure = "magma_r" if "fvu" in name else "viridis", MEASURES[name]
            if variant.runs[name].notna().any():
                heat_map(block, axes, cell_grid(variant.runs, name), measure.label, colors, measure.decimals)
            else:
                axes.set_title(f"{measure.label}: none")
        model = ", ".join(map(str, variant.runs["model"].unique()))
        block.suptitle(f"{model}\n{variant.label}" if variant.label else model)
    return figure
