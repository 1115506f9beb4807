"""Scores of all features of a method, sorted, and their running mean (the paper's Fig. 24-28): a picture per layer."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.experiments.comsem_table.best_features import ranked, running_mean
from bae_ray.experiments.comsem_table.comparison import Comparison


def scores_figure(comparison: Comparison, layer: int) -> Figure:
    """Above, the mean score of each method's best m features over m; below, each method's sorted scores.

    Dashed lines show the same for chance levels: what selection alone gives. Each scored feature is as wide as the
    number of features that it stands for. There could be any number of random sets; they are drawn as wide as the
    method with the most features.
    """
    table = comparison.table
    methods = table[(table["layer"] == layer) | table["layer"].isna()].to_dict("records")
    most = max(method["activated"] for method in methods)
    figure = Figure(figsize=(8, 3.2 + 1.2 * len(methods)), layout="constrained")
    curves, *rows = figure.subplots(
        1 + len(methods), 1, sharex=True, gridspec_kw={"height_ratios": [2.6, *[1] * len(methods)]}
    )
    for number, (method, axes) in enumerate(zip(methods, rows, strict=True)):
        width = most if pd.isna(method["layer"]) else method["activated"]
        _draw(curves, axes, comparison.features[method["method"]], method["label"], width, f"C{number}")
        counts = "" if pd.isna(method["layer"]) else f"{method['activated']} active, "
        axes.set_title(f"{method['label']}: {counts}{method['scored']} scored", fontsize="small", loc="left")
    curves.set(ylabel="Mean of the best", ylim=(0, 1.02), xlim=(0, most))
    curves.legend(fontsize="small", ncols=2)
    rows[-1].set_xlabel("Features, sorted by score")
    tokens = ", ".join(map(str, table["n_tokens"].unique()))
    figure.suptitle(f"Layer {layer}: interpretability scores by {comparison.judge}; {tokens} tokens")
    return figure


def _draw(curves: Axes, axes: Axes, features: pd.DataFrame, label: str, width: int, color: str) -> None:
    scores, chance = running_mean(features["score"]), running_mean(features["chance"])
    each, each_of_chance = (width / max(1, len(means)) for means in (scores, chance))
    axes.stairs(ranked(features["score"]), each * np.arange(len(scores) + 1), color=color, fill=True, alpha=0.5)
    axes.set_ylim(0, 1.02)
    curves.plot(each * np.arange(1, len(scores) + 1), scores, color=color, label=label)
    curves.plot(each_of_chance * np.arange(1, len(chance) + 1), chance, color=color, linestyle="--", linewidth=0.8)
