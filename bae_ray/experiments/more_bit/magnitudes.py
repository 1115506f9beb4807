"""Maps of magnitudes, samples x features, small enough to look at, and their picture (the paper's Fig. 35-38).

Shapes: N samples, S of them shown, D d_in, G features, W columns.
"""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import evaluating, feature_statistics, rows_at_once
from bae_ray.autoencoders import Autoencoder


class MagnitudeMap(NamedTuple):
    """Magnitudes of some samples' features; neighbouring features are joined."""

    values: Tensor
    """[S, W] on the CPU: the largest magnitude among the features of a column."""
    samples: Tensor
    """[S]: which samples."""
    n_features: int
    """G, of all columns together; a column is of ceil(G / W) or fewer."""
    burstiness: bool
    """Whether the magnitudes are burstiness, at most 0 and in bits; otherwise they are latents."""


@torch.no_grad()
def magnitude_map(autoencoder: Autoencoder, x: Rows, samples: int, columns: int) -> MagnitudeMap:
    """Magnitudes on at most `samples` evenly spaced rows of activations [N, D], in at most `columns` columns.

    All of `x` becomes the autoencoder's reference set, as in the paper. A column shows the largest magnitude of its
    features. Their mean would hide a dense feature, which is always high among neighbours that are not. Samples are
    left out, not joined. At most one batch of magnitudes [b, G] is in memory.
    """
    feature_statistics(autoencoder, x).set_reference(autoencoder)
    chosen = evenly_spaced(len(x), samples)
    parts: list[Tensor] = []
    with evaluating(autoencoder):
        for batch in x.select(chosen).split(rows_at_once(autoencoder)):
            magnitudes = autoencoder.magnitudes(batch.to(autoencoder.mean.device))
            parts.append(joined(magnitudes, columns).cpu())
    return MagnitudeMap(torch.cat(parts), chosen, autoencoder.n_features, autoencoder.config.has_burstiness)


def evenly_spaced(n: int, wanted: int) -> Tensor:
    """At most `wanted` evenly spaced numbers of 0 to n - 1, in order."""
    return torch.arange(min(n, wanted)) * n // min(n, wanted)


def joined(values: Tensor, columns: int) -> Tensor:
    """The largest of each group of neighbouring columns of [N, G]; the groups leave at most `columns` columns."""
    width = -(-values.shape[1] // columns)
    return torch.stack([part.amax(1) for part in values.split(width, dim=1)], dim=1)


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
