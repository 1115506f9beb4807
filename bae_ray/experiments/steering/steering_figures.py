"""Pictures of steering: over the strength (the paper's Fig. 6), over the features kept, and over the layer."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.autoencoders.architectures import every_architecture
from bae_ray.experiments.steering.config import SteeringConfig
from bae_ray.experiments.steering.steering_summary import ALL, References, label_of
from bae_ray.experiments.steering.steering_units import CENTROIDS, COMPONENT, DIRECTION, FEATURES, NONE

STYLES: dict[str, dict[str, Any]] = {
    CENTROIDS: {"color": "black", "linestyle": "-"},
    COMPONENT: {"color": "tab:brown", "linestyle": "-."},
    DIRECTION: {"color": "grey", "linestyle": "--"},
    FEATURES: {"color": "grey", "linestyle": ":"},
}
"""Of what has no autoencoder, and of controls; architectures have a colour each."""
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:cyan")
ASIDE = 0.02
"""How far the intervals of neighbouring lines stand apart."""
ROWS = {
    "whole": "Accuracy, whole vocabulary",
    "among": "Accuracy among the labels",
    "log_odds_change": "Change of log-odds / nats",
    "kl": "KL on neutral texts / nats",
}


def strength_figure(means: pd.DataFrame, config: SteeringConfig, found: References) -> Figure:
    """Two columns, vectors as decoded and of one length; a row for each measure over the strength."""
    figure = Figure(figsize=(12, 15), layout="constrained")
    grid = figure.subplots(len(ROWS), 2, sharex=True, sharey="row")
    kept = ALL if config.kept is None else str(config.kept)
    here = means[(means["layer"] == config.layer) & (means["weights"] == "values")]
    here = here[here["kept"].isin([kept, ALL])]
    plain = here[here["method"] == NONE]
    for row, (measure, name) in enumerate(ROWS.items()):
        for column, rescaled in enumerate((False, True)):
            axes: Axes = grid[row][column]
            for number, (method, rows) in enumerate(_shown(here, rescaled, kept).items()):
                drawn = pd.concat([plain, rows])  # a vector of strength 0 is no steering
                _line(axes, drawn.assign(strength=drawn["strength"] + ASIDE * number), "strength", measure, method)
            _references(axes, measure, found, float(plain[measure].iloc[0]))
            if measure == "kl":
                axes.set_yscale("symlog", linthresh=0.01)
        grid[row][0].set_ylabel(name)
    grid[0][0].set_title("Vectors as decoded (the paper's Fig. 6)")
    grid[0][1].set_title("Vectors as long as the centroids are apart")
    for axes in grid[-1]:
        axes.set_xlabel("Strength")
    figure.legend(*grid[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(_title(config, found))
    return figure


def _shown(here: pd.DataFrame, rescaled: bool, kept: str) -> dict[str, pd.DataFrame]:
    """The lines of a panel by method; the centroids' vector and the component have one length in both."""
    lines: dict[str, pd.DataFrame] = {}
    for method, rows in here[here["method"] != NONE].groupby("method", sort=False):
        wanted = rows[rows["rescaled"] == (rescaled or method in (CENTROIDS, COMPONENT))]
        if method not in STYLES or method == FEATURES:
            wanted = wanted[wanted["kept"] == kept]
        if len(wanted):
            lines[str(method)] = wanted
    return lines


def _style(method: str) -> dict[str, Any]:
    """The look of a method, the same in all pictures."""
    architectures = [*every_architecture()]
    return STYLES.get(method) or {"color": COLORS[architectures.index(method) % len(COLORS)], "linestyle": "-"}


def _line(axes: Axes, rows: pd.DataFrame, x: str, measure: str, method: str, weights: str = "") -> None:
    rows, style = rows.sort_values(x), _style(method)
    bars = [rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]]
    if weights == "signs":
        style = {**style, "linestyle": "--"}
    label = f"{label_of(method)}, {weights}" if weights else label_of(method)
    axes.errorbar(rows[x], rows[measure], bars, marker=".", capsize=2, elinewidth=0.6, label=label, **style)


def _references(axes: Axes, measure: str, found: References, plain: float) -> None:
    axes.axhline(plain, color="tab:olive", linewidth=0.8, label="no steering")
    if measure in ("whole", "among"):
        axes.axhline(found.chance, color="grey", linewidth=0.8, linestyle=(0, (1, 4)), label="chance among the labels")
        shown = found.few_shot_whole if measure == "whole" else found.few_shot_among
        axes.axhline(shown, color="tab:pink", linewidth=0.8, label=f"{found.shots}-shot prompts, not steered")
        axes.set_ylim(0, 1)


def kept_figure(means: pd.DataFrame, config: SteeringConfig, found: References) -> Figure:
    """Accuracy and divergence over the number of latents kept, values against signs, at one length and strength."""
    here = means[(means["layer"] == config.layer) & means["rescaled"] & (means["strength"] == config.compared_at)]
    numbers = list(dict.fromkeys((*config.kept_compared, config.kept)))
    order = [str(n) for n in sorted(n for n in numbers if n is not None)] + ([ALL] if None in numbers else [])
    measures = ("whole", "among", "kl")
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    plain = means[means["method"] == NONE]
    for axes, measure in zip(figure.subplots(1, len(measures)), measures, strict=True):
        methods = [method for method in dict.fromkeys(here["method"]) if method not in (*STYLES, NONE)]
        for number, method in enumerate(methods):
            for side, weights in enumerate(("values", "signs")):
                rows = here[(here["method"] == method) & (here["weights"] == weights)]
                aside = ASIDE * (2 * number + side)
                rows = rows.assign(place=[order.index(kept) + aside for kept in rows["kept"]])
                _line(axes, rows, "place", measure, str(method), weights)
        for control in (CENTROIDS, DIRECTION):
            for value in here[here["method"] == control][measure]:
                axes.axhline(value, **STYLES[control], linewidth=0.8, label=control)
        axes.set_xticks(range(len(order)), order)
        _finish(axes, measure, "Latents kept", found, plain)
    return _at_one_strength(figure, _title(config, found), config)


def layer_figure(means: pd.DataFrame, config: SteeringConfig, found: References) -> Figure:
    """Accuracy and divergence by layer, at one strength and length."""
    kept = ALL if config.kept is None else str(config.kept)
    at = means[means["rescaled"] & (means["strength"] == config.compared_at) & (means["weights"] == "values")]
    plain, measures = means[means["method"] == NONE], ("whole", "among", "kl")
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(measures)), measures, strict=True):
        for number, (method, rows) in enumerate(_shown(at, True, kept).items()):
            _line(axes, rows.assign(layer=rows["layer"] + 4 * ASIDE * number), "layer", measure, method)
        _finish(axes, measure, "Layer", found, plain)
    return _at_one_strength(figure, _title(config, found, one_layer=False), config)


def _finish(axes: Axes, measure: str, xlabel: str, found: References, plain: pd.DataFrame) -> None:
    """Draw what a panel's lines are read against, and label it."""
    _references(axes, measure, found, float(plain[measure].iloc[0]))
    axes.set(xlabel=xlabel, ylabel=ROWS[measure])
    if measure == "kl":
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set_ylim(bottom=0)


def _at_one_strength(figure: Figure, title: str, config: SteeringConfig) -> Figure:
    """The figure with its legend and title."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="x-small")
    figure.suptitle(f"{title}; strength {config.compared_at:g}, vectors of one length")
    return figure


def _title(config: SteeringConfig, found: References, one_layer: bool = True) -> str:
    layer, seeds = f", layer {config.layer}" if one_layer else "", len(config.seeds)
    return (
        f"{found.model}{layer}; {config.prompts.corpus}, {found.test} prompts, calibration of "
        f"{found.calibration}; {seeds} seeds, bars: 95 % intervals"
    )
