"""Magnitudes of a binary autoencoder and of a sparse one side by side (the paper's Fig. 35-38)."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.experiments.more_bit.magnitudes import MagnitudeMap

COLORS = matplotlib.colormaps["magma"].resampled(10)  # few colours make small files
LOWEST_BURSTINESS = -2.5
"""Where the paper's colour scale of burstiness ends."""
BRIGHTEST = 0.99
"""Quantile of an unbounded map that is drawn in the brightest colour."""


def magnitudes_figure(layer: int, maps: Mapping[str, MagnitudeMap]) -> Figure:
    """A map per autoencoder, by its name: samples down, features across."""
    figure = Figure(figsize=(5.5 * len(maps), 4.6), layout="constrained")
    for axes, (name, shown) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        _draw(figure, axes, name, shown)
    figure.suptitle(f"Magnitudes at layer {layer}")
    return figure


def _draw(figure: Figure, axes: Axes, name: str, shown: MagnitudeMap) -> None:
    values = shown.values.numpy()
    low, high = (LOWEST_BURSTINESS, 0.0) if shown.burstiness else (0.0, float(np.quantile(values, BRIGHTEST)) or 1.0)
    image = axes.imshow(
        values, cmap=COLORS, vmin=low, vmax=high, aspect="auto", interpolation="nearest",
        extent=(0, shown.n_features, len(values), 0),
    )  # fmt: skip
    per_column = -(-shown.n_features // values.shape[1])
    across = "Feature" if per_column == 1 else f"Feature (largest of {per_column} neighbours)"
    axes.set(title=name, xlabel=across, ylabel=f"Sample ({len(values)} evenly spaced)")
    label, extend = ("Burstiness / bits", "min") if shown.burstiness else ("Latent", "max")
    figure.colorbar(image, ax=axes, label=label, extend=extend)
