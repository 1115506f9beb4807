"""Figures of a sweep's entropies."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.files import atomic_path

matplotlib.use("Agg")


def entropy_figure(table: pd.DataFrame) -> Figure:
    """Bits against position, a line per layer (the paper's Fig. 3), and layer x position maps of bits and held-out FVU.

    Rows that share a cell (seeds, other axes) are averaged; the line shows their range as a band.
    """
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    lines, bits, fvu = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    _lines(figure, lines, table)
    _map(figure, bits, table, "entropy_bits", "Entropy / bits", "viridis", "{:.0f}")
    _map(figure, fvu, table, "fvu_val", "FVU on held-out texts", "magma_r", "{:.2f}")
    first = table.iloc[0]
    figure.suptitle(
        f"{first['model']}, {first['site']}, n = {first['n_train'] + first['n_val']} texts, d = {first['d_in']}, "
        f"d_latent = {', '.join(str(width) for width in sorted(table['d_latent'].unique()))}"
    )
    return figure


def save_png(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element, to be put into a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _lines(figure: Figure, axes: Axes, table: pd.DataFrame) -> None:
    layers = sorted(table["layer"].unique())
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    points = None
    low, high = table["fvu_val"].min(), table["fvu_val"].max()
    for layer, color in zip(layers, colors, strict=True):
        by_position = table[table["layer"] == layer].groupby("position")
        mean = by_position[["entropy_bits", "fvu_val"]].mean()
        x = mean.index.to_numpy()
        axes.plot(x, mean["entropy_bits"], color=color, label=str(layer), zorder=1)
        spread = by_position["entropy_bits"].agg(["min", "max"])
        axes.fill_between(x, spread["min"], spread["max"], color=color, alpha=0.2, linewidth=0, zorder=0)
        points = axes.scatter(
            x, mean["entropy_bits"], c=mean["fvu_val"], cmap="magma_r", vmin=low, vmax=high, s=36, edgecolors="grey",
            linewidths=0.5, zorder=2,
        )  # fmt: skip
    positions = sorted(table["position"].unique())
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(positions, [str(position) for position in positions])
    axes.minorticks_off()
    axes.set(xlabel="Token position", ylabel="Entropy / bits", title="Entropy against position")
    axes.set_ylim(bottom=0)
    axes.legend(title="Layer", fontsize="small")
    if points is not None:
        figure.colorbar(points, ax=axes, label="FVU on held-out texts")


def _map(figure: Figure, axes: Axes, table: pd.DataFrame, value: str, title: str, colors: str, label: str) -> None:
    grid = table.pivot_table(index="layer", columns="position", values=value).sort_index(ascending=False)
    numbers = grid.to_numpy()
    image = axes.imshow(numbers, cmap=colors, aspect="auto")
    axes.set_xticks(range(len(grid.columns)), [str(position) for position in grid.columns])
    axes.set_yticks(range(len(grid.index)), [str(layer) for layer in grid.index])
    axes.set(xlabel="Token position", ylabel="Layer", title=title)
    if numbers.size <= 120:
        for (row, column), number in np.ndenumerate(numbers):
            if np.isfinite(number):
                shade = np.mean(image.cmap(image.norm(number))[:3])
                axes.text(column, row, label.format(number), ha="center", va="center", fontsize="small",
                          color="black" if shade > 0.5 else "white")  # fmt: skip
    figure.colorbar(image, ax=axes)
