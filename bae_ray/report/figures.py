"""Figures of a sweep's entropies, and how figures are saved."""

import io
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from bae_ray.activations.config import Position
from bae_ray.files import atomic_path
from bae_ray.report.entropy_tables import CellGrid, Variant, cell_grid, variants
from bae_ray.report.measures import MEASURES, known_measures
from bae_ray.report.numbers import number, robust_limits

LAYER_COLORS = matplotlib.colormaps["viridis"]
MAX_LABELLED_CELLS = 200
MOST_LABELS = 12
"""Along the axis of positions."""
MAPS = {"tree_bits": "viridis", "entropy_bits": "viridis", "fvu_val": "magma_r"}
"""The measures that a sweep's figure maps, and their colours."""


def entropy_figure(table: pd.DataFrame) -> Figure:
    """Bits against position, a line per layer (the paper's Fig. 3), and layer x position maps of bits and held-out FVU.

    `table` is that of `results`. Each variant (settings other than the seed) has a row of its own; seeds are averaged,
    with their range as a band. Where bits under a tree are known, they stand beside the paper's: dotted lines, and a
    map of their own.
    """
    rows = variants(table)
    width = 19 if len(known_measures(table, MAPS)) == len(MAPS) else 15
    figure = Figure(figsize=(width, 4.8 * len(rows)), layout="constrained")
    for part, variant in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        _draw(part, variant)
    return figure


def _draw(figure: SubFigure, variant: Variant) -> None:
    runs = variant.runs.astype({name: float for name in MAPS if name in variant.runs})
    shown = known_measures(runs, MAPS)
    lines, *maps = figure.subplots(1, 1 + len(shown), width_ratios=[1.25, *[1] * len(shown)])
    _lines(figure, lines, runs)
    for axes, name in zip(maps, shown, strict=True):
        heat_map(figure, axes, cell_grid(runs, name), MEASURES[name].label, MAPS[name], MEASURES[name].decimals)
    n = runs["n_train"] + runs["n_val"]
    described = {"": runs["model"], "n =": n, "d =": runs["d_in"], "d_latent =": runs["d_latent"]}
    title = "; ".join(f"{name} {', '.join(map(str, column.unique()))}" for name, column in described.items())
    figure.suptitle(f"{title}\n{variant.label}" if variant.label else title)


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


def position_axis(axes: Axes, positions: list[Position]) -> list[int]:
    """Make the x axis one of positions, logarithmic where all are numbers. Returns the place of each."""
    numbers = [position for position in positions if isinstance(position, int)]
    if len(numbers) == len(positions):
        axes.set_xscale("symlog", base=2, linthresh=1)
    places = numbers if len(numbers) == len(positions) else list(range(len(positions)))
    axes.set_xticks(places, _apart(positions, [math.log2(1 + place) for place in places]))
    axes.minorticks_off()
    return places


def _apart(positions: list[Position], places: list[float]) -> list[str]:
    """Labels of the positions; a label that would overlap the one before is left out."""
    room = (places[-1] - places[0]) / MOST_LABELS if places else 0.0
    labels, last = [], -math.inf
    for position, place in zip(positions, places, strict=True):
        fits = place - last >= room
        labels.append(str(position) if fits else "")
        last = place if fits else last
    return labels


def _lines(figure: SubFigure, axes: Axes, table: pd.DataFrame) -> None:
    layers, positions, bits = cell_grid(table, "entropy_bits")
    lowest, highest = (cell_grid(table, "entropy_bits", how).values for how in ("min", "max"))
    fvu = cell_grid(table, "fvu_val").values
    tree = cell_grid(table, "tree_bits").values if known_measures(table, ["tree_bits"]) else None
    places = position_axis(axes, positions)
    for row, layer in enumerate(layers):
        color = LAYER_COLORS(0.9 * row / max(len(layers) - 1, 1))
        axes.plot(places, bits[row], color=color, label=str(layer), zorder=1)
        axes.fill_between(places, lowest[row], highest[row], color=color, alpha=0.2, linewidth=0, zorder=0)
        if tree is not None:
            axes.plot(places, tree[row], color=color, linestyle=":", zorder=1)
    points = axes.scatter(
        np.tile(places, len(layers)), bits.ravel(), c=fvu.ravel(), cmap="magma_r", s=36,
        edgecolors="grey", linewidths=0.5, zorder=2,
    )  # fmt: skip
    axes.set(xlabel="Token position", ylabel="Entropy / bits", title="Entropy against position")
    axes.set_ylim(bottom=0)
    axes.legend(title="Layer" if tree is None else "Layer (dotted: tree bits)", fontsize="small")
    figure.colorbar(points, ax=axes, label="FVU on held-out texts")


def heat_map(figure: SubFigure, axes: Axes, grid: CellGrid, title: str, colors: str, decimals: int) -> None:
    """A heat map with the deepest layer on top; its scale is clipped at outliers, which are marked."""
    limits = robust_limits(grid.values)
    image = axes.imshow(grid.values, cmap=colors, aspect="auto", origin="lower", vmin=limits.low, vmax=limits.high)
    axes.set_xticks(range(len(grid.positions)), [str(position) for position in grid.positions])
    axes.set_yticks(range(len(grid.layers)), [str(layer) for layer in grid.layers])
    axes.set(xlabel="Token position", ylabel="Layer", title=title)
    if grid.values.size <= MAX_LABELLED_CELLS:
        brightness = image.to_rgba(grid.values)[..., :3].mean(-1)
        for (row, column), value in np.ndenumerate(grid.values):
            if np.isfinite(value):
                color = "black" if brightness[row, column] > 0.5 else "white"
                label = number(value, decimals) + limits.mark(value)
                axes.text(column, row, label, ha="center", va="center", fontsize="small", color=color)
    below, above = (bool(np.any(side)) for side in (grid.values < limits.low, grid.values > limits.high))
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    bar = figure.colorbar(image, ax=axes, extend=extend)
    if limits.beyond:
        bar.set_label(f"beyond the scale (▲▼): {limits.beyond}", fontsize="small")
