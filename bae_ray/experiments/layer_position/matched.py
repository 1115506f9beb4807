"""Entropies at one held-out FVU for all cells."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator
from rich.table import Table

from bae_ray.analysis.matched_entropy import WEIGHT, common_fvu, matched_entropy
from bae_ray.report.entropy_tables import Variant, variants
from bae_ray.report.figures import LAYER_COLORS, position_axis
from bae_ray.report.numbers import number
from bae_ray.report.terminal import Column, table_of
from bae_ray.training.results import position_order

Floats = np.ndarray[Any, np.dtype[np.float64]]

ASIDE = 0.06
"""How far bars of neighbouring layers stand apart: in steps of position, where those are numbers in powers of two."""

NOTE = (
    "Bits at matched distortion: each cell is trained with several entropy weights, and its bits are read where its "
    "curve has the stated held-out FVU, by interpolation. Bits and FVU are of the same held-out texts (heldout_bits; "
    "val_bits in matched.csv are their marginal entropy); bits in matched.csv are the entropy over all texts. Bars: "
    "95 % intervals over seeds (Student's t), which of two seeds are 13 times as wide as their spread, but entropies "
    "go from 0 to d_latent: an arrow is at the end of one that goes on beyond the axis. Beside them stands the "
    "number at one fixed weight, as in the paper, where cells differ in FVU. A cell whose curve never has that FVU is "
    "left out and says so."
)


class Matched(NamedTuple):
    """A variant's cells at one FVU."""

    label: str
    runs: pd.DataFrame
    """Rows of `results`, a curve for each cell and seed."""
    cells: pd.DataFrame
    """The rows of `matched_entropy` that were made from them."""

    @property
    def prefix(self) -> str:
        """Of the columns of bits that are shown: of held-out texts where these were measured, as is the FVU."""
        return "heldout_" if self.cells["heldout_bits"].notna().any() else ""

    @property
    def measure(self) -> str:
        """The column of `results` that they were read from."""
        return "heldout_bits" if self.prefix else "entropy_bits"

    @property
    def said(self) -> str:
        """What they are."""
        return "Bits of a held-out text" if self.prefix else "Entropy / bits"


def curves(table: pd.DataFrame) -> list[Variant]:
    """The variants in the rows of `results` that were trained with several entropy weights."""
    if WEIGHT not in table:
        return []
    return [variant for variant in variants(table, aside=[WEIGHT]) if variant.runs[WEIGHT].nunique() > 1]


def matched_figure(parts: Sequence[Matched]) -> Figure:
    """A row per variant: curves of its cells, bits at the matched FVU, and bits at a fixed weight (the paper's Fig. 3).

    Both over the token position.
    """
    figure = Figure(figsize=(16, 5 * len(parts)), layout="constrained")
    rows = figure.subfigures(len(parts), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        _draw(part, row)
    return figure


def _draw(part: Matched, figure: SubFigure) -> None:
    table, matched = part.runs, part.cells
    plane, at_fvu, at_weight = figure.subplots(1, 3)
    fvu = float(matched["fvu"].iloc[0])
    layers = sorted(table["layer"].unique().tolist())
    colors = {layer: LAYER_COLORS(0.9 * row / max(len(layers) - 1, 1)) for row, layer in enumerate(layers)}
    for (layer, _, _), runs in table.groupby(["layer", "site", "position"], sort=False):
        curve = runs.astype({part.measure: float}).groupby(WEIGHT)[["fvu_val", part.measure]].mean()
        plane.plot(curve["fvu_val"], curve[part.measure], ".-", color=colors[layer], linewidth=0.8, markersize=4)
    plane.axvline(fvu, color="grey", linestyle="--", linewidth=0.8)
    plane.set(xlabel="FVU on held-out texts", ylabel=part.said, title="A curve per cell, a point per weight")
    plane.set_xscale("log")
    plane.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plane.xaxis.set_major_formatter(lambda value, _: number(value))
    plane.minorticks_off()
    weight = float(matched["fixed_weight"].iloc[0])
    columns = (f"{part.prefix}bits", "fixed_bits")
    top = 1.1 * float(np.nanmax(matched[[*columns]].to_numpy(dtype=float)))  # the same for both
    _against_position(at_fvu, matched, colors, columns[0], top)
    at_fvu.set(ylabel=part.said, title=f"At held-out FVU {fvu:g}")
    _against_position(at_weight, matched, colors, columns[1], top)
    at_weight.set(ylabel="Entropy / bits", title=f"At entropy weight {weight:g}, whatever its FVU")
    at_weight.legend(title="Layer", fontsize="small")
    n = ", ".join(map(str, matched["n"].unique()))
    seeds = ", ".join(map(str, sorted(table["seed"].unique())))
    title = f"{', '.join(table['model'].unique())}; n = {n}; seeds {seeds}"
    figure.suptitle(f"{title}; {part.label}" if part.label else title)


def matched_parts(
    found: Sequence[Variant], fvu: float | None = None, fixed_weight: float | None = None
) -> list[Matched]:
    """The bits at one FVU, for each variant that `curves` found.

    Without `fvu`, it is the one that most cells' curves have. Without `fixed_weight`, it is each variant's smallest
    above 0.
    """
    fvu = fvu if fvu is not None else common_fvu(variant.runs for variant in found)
    return [Matched(*variant, matched_entropy(variant.runs, fvu, fixed_weight)) for variant in found]


def _against_position(
    axes: Axes, matched: pd.DataFrame, colors: dict[int, tuple[float, ...]], column: str, top: float
) -> None:
    positions = sorted(matched["position"].unique().tolist(), key=position_order)
    places = dict(zip(positions, position_axis(axes, positions), strict=True))
    numbered = all(isinstance(position, int) for position in positions)
    for row, (layer, cells) in enumerate(matched.groupby("layer")):
        aside = ASIDE * (row - (matched["layer"].nunique() - 1) / 2)  # bars of layers stand beside each other
        x = [places[place] * 2**aside if numbered else places[place] + aside for place in cells["position"]]
        color, bits = colors[int(str(layer))], cells[column].to_numpy(dtype=float)  # a gap where bits are missing
        axes.plot(x, bits, ".-", color=color, label=str(layer))
        if column != "fixed_bits":
            _intervals(axes, np.array(x), cells[[column, *(column[:-4] + end for end in ("low", "high"))]], top, color)
    axes.set(xlabel="Token position")
    axes.set_ylim(0, top)


def _intervals(axes: Axes, x: Floats, cells: pd.DataFrame, top: float, color: Any) -> None:
    """Bars of the columns bits, low and high as far as the axis goes; one that goes on ends in an arrow."""
    bits, low, high = cells.to_numpy(dtype=float).T
    known = np.isfinite(high)
    x, bits, low, high = x[known], bits[known], low[known], high[known]
    reach = np.array([bits - low, np.minimum(high, top) - bits])
    axes.errorbar(x, bits, reach, fmt="none", ecolor=color, elinewidth=1, alpha=0.7)
    beyond = high > top
    if beyond.any():
        axes.plot(x[beyond], np.full(int(beyond.sum()), top), "^", color=color, markersize=5, clip_on=False)


def _with_interval(name: str, prefix: str) -> dict[str, Column]:
    def ends(row: dict[str, Any]) -> str:
        low, high = (row[prefix + end] for end in ("low", "high"))
        return "-" if np.isnan(low) else f"{low:.1f} to {high:.1f}"

    return {name: f"{{{prefix}bits:.1f}}", f"95 % interval{' ' if prefix else ''}": ends}


def matched_table(part: Matched) -> Table:
    """The bits of a variant's cells, for the terminal."""
    first = part.cells.iloc[0]
    title = f"Entropy at held-out FVU {first['fvu']:g}, and at entropy weight {first['fixed_weight']:g}"
    columns = {
        "layer": "{layer}",
        "site": "{site}",
        "position": "{position}",
        **(_with_interval("bits of a held-out text", "heldout_") if part.prefix else {}),
        **_with_interval("bits", ""),
        "seeds": "{seeds} of {of}",
        "bits at the weight": "{fixed_bits:.1f}",
        "FVU there": "{fixed_fvu_train:.2f}/{fixed_fvu_val:.2f}",
        "": "{reason}",
    }
    return table_of(f"{title}; {part.label}" if part.label else title, part.cells, columns, left=[""])
