"""How active features are: how often (the paper's Fig. 5 and 39-41), and how strongly (Fig. 35-38).

Shapes: N samples, S of them shown, D d_in, G features, W columns of a map, B steps of a histogram.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import DENSE_RATE, evaluating, feature_statistics, rows_at_once
from bae_ray.autoencoders import Autoencoder

BINS = 30
Floats = np.ndarray[Any, np.dtype[np.float64]]
COLORS = matplotlib.colormaps["magma"].resampled(10)  # few colours make small files
LOWEST_BURSTINESS = -2.5
"""Where the paper's colour scale of burstiness ends."""
BRIGHTEST = 0.99
"""Quantile of an unbounded map that is drawn in the brightest colour."""


class Rates(NamedTuple):
    """How often each feature of an autoencoder is active on the tokens of the evaluation set, [G] each."""

    fires: Floats
    """Share of tokens on which it is not 0; of several bits, on which any of them is 1."""
    selected: Floats
    """Share of tokens on which its magnitude is among the k largest: active in the sense of Algorithm 1."""


class Histogram(NamedTuple):
    """Features by rate, in equal steps of its logarithm."""

    edges: Floats
    """[B + 1], from half a token of n to 1."""
    counts: Floats
    """[B]: features per step; those of rate 0 are in none."""
    dead: int
    """Features of rate 0."""
    dense: int
    """Features of a rate above `DENSE_RATE`."""


def histogram(rates: Floats, n_tokens: int) -> Histogram:
    """The histogram of rates over `n_tokens`; each rate is a whole number of tokens over `n_tokens`."""
    edges = np.geomspace(0.5 / n_tokens, 1.0, BINS + 1)
    edges[-1] = np.nextafter(1.0, 2.0)
    counts, _ = np.histogram(rates, edges)
    return Histogram(edges, counts.astype(np.float64), int((rates == 0).sum()), int((rates > DENSE_RATE).sum()))


def firing_figure(layers: Mapping[int, Mapping[str, Rates]], n_tokens: int, k: int) -> Figure:
    """A column of panels per layer, the autoencoders by name in each: above, what fires; below, what is selected."""
    figure = Figure(figsize=(5.5 * len(layers), 8), layout="constrained")
    grid = figure.subplots(2, len(layers), squeeze=False, sharex=True)
    for column, (layer, methods) in enumerate(layers.items()):
        for row, of in enumerate(("fires", "selected")):
            _draw_rates(grid[row][column], {name: getattr(rates, of) for name, rates in methods.items()}, n_tokens)
        grid[0][column].set_title(f"Layer {layer}")
        grid[1][column].set_xlabel("Share of tokens")
    grid[0][0].set_ylabel("Features that fire on that share")
    grid[1][0].set_ylabel(f"Features among the {k} largest on that share")
    figure.suptitle(f"How often features are active; {n_tokens} tokens. At the left edge: never")
    return figure


def _draw_rates(axes: Axes, methods: Mapping[str, Floats], n_tokens: int) -> None:
    for number, (name, rates) in enumerate(methods.items()):
        found, color = histogram(rates, n_tokens), f"C{number}"
        label = f"{name}: {found.dead} of {len(rates)} dead, {found.dense} dense"
        axes.stairs(found.counts, found.edges, color=color, fill=True, alpha=0.35)
        axes.stairs(found.counts, found.edges, color=color, label=label)
        never = _never(found.edges, number, len(methods))
        axes.bar(never[0], found.dead, width=never[1] - never[0], align="edge", color=color, alpha=0.7)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)  # a single feature is to be seen, and so are thousands
    axes.set_ylim(bottom=0)
    axes.axvline(DENSE_RATE, color="grey", linewidth=0.8, linestyle=":")
    axes.legend(fontsize="small", loc="upper center")


def _never(edges: Floats, number: int, of: int) -> Sequence[float]:
    """Where the bar of dead features stands: left of the smallest rate, beside the other autoencoders' bars."""
    places = np.geomspace(edges[0] / 6, edges[0] / 2, of + 1)
    return places[number : number + 2].tolist()


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


def magnitudes_figure(layer: int, maps: Mapping[str, MagnitudeMap]) -> Figure:
    """A map per autoencoder, by its name: samples down, features across."""
    figure = Figure(figsize=(5.5 * len(maps), 4.6), layout="constrained")
    for axes, (name, shown) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        _draw_map(figure, axes, name, shown)
    figure.suptitle(f"Magnitudes at layer {layer}")
    return figure


def _draw_map(figure: Figure, axes: Axes, name: str, shown: MagnitudeMap) -> None:
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
