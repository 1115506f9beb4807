"""Distributions of firing rates: which share of features is active how often (the paper's Fig. 5 and 39-41)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.analysis.features import DENSE_RATE

BINS = 30
Floats = np.ndarray[Any, np.dtype[np.float64]]


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
            _draw(grid[row][column], {name: getattr(rates, of) for name, rates in methods.items()}, n_tokens)
        grid[0][column].set_title(f"Layer {layer}")
        grid[1][column].set_xlabel("Share of tokens")
    grid[0][0].set_ylabel("Features that fire on that share")
    grid[1][0].set_ylabel(f"Features among the {k} largest on that share")
    figure.suptitle(f"How often features are active; {n_tokens} tokens. At the left edge: never")
    return figure


def _draw(axes: Axes, methods: Mapping[str, Floats], n_tokens: int) -> None:
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
