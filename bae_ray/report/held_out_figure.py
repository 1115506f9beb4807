"""Bits of held-out texts against position, with their intervals: the marginal entropy and the code length."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.report.entropy_tables import cell_grid, variants
from bae_ray.report.figures import LAYER_COLORS, position_axis

PANELS = {
    "Marginal entropy of held-out texts": ("entropy_bits_val", "entropy_low_val", "entropy_high_val"),
    "Code length under the tree of the training texts": ("heldout_bits", "heldout_low", "heldout_high"),
}
"""Title, and the columns of bits and of the ends of their interval."""
ASIDE = 1.03
"""How far bars of neighbouring layers stand apart: a factor of the position."""


def held_out_figure(table: pd.DataFrame) -> Figure | None:
    """A line per layer with 95 % intervals, means over the runs of a cell; a row per variant of the rows of `results`.

    None where no run has these measures.
    """
    rows = [variant for variant in variants(table) if _known(variant.runs, "entropy_bits_val")]
    if not rows:
        return None
    figure = Figure(figsize=(12, 4.8 * len(rows)), layout="constrained")
    for part, variant in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        panels = {title: names for title, names in PANELS.items() if _known(variant.runs, names[0])}
        for axes, (title, names) in zip(part.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            _lines(axes, variant.runs, names)
            axes.set(xlabel="Token position", ylabel="Bits", title=title)
            axes.set_ylim(bottom=0)
            axes.legend(title="Layer", fontsize="small")
        n = ", ".join(map(str, variant.runs["n_val"].unique()))
        part.suptitle(f"Held-out texts, n = {n}, 95 % intervals" + (f"\n{variant.label}" if variant.label else ""))
    return figure


def _known(runs: pd.DataFrame, column: str) -> bool:
    return column in runs and bool(runs[column].notna().any())


def _lines(axes: Axes, runs: pd.DataFrame, names: tuple[str, str, str]) -> None:
    known = runs.astype(dict.fromkeys(names, float)).dropna(subset=list(names))
    bits, low, high = (cell_grid(known, name) for name in names)
    places = position_axis(axes, bits.positions)
    for row, layer in enumerate(bits.layers):
        color = LAYER_COLORS(0.9 * row / max(len(bits.layers) - 1, 1))
        x = [place * ASIDE ** (row - (len(bits.layers) - 1) / 2) for place in places]
        bars = np.stack([bits.values[row] - low.values[row], high.values[row] - bits.values[row]])
        axes.errorbar(x, bits.values[row], bars, fmt=".-", color=color, elinewidth=0.8, capsize=2, label=str(layer))
