"""Methods compared by ComSem: the paper's Table 1 and Table 4 and Fig. 24-28, and how far the judge can be trusted."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.analysis.claims import first_of
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.experiments.comsem_table.comparison import Comparison, ranked, running_mean
from bae_ray.report.comsem_terminal import check_lines
from bae_ray.report.numbers import interval
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of

NOTES = [
    (
        "Act.: features with more than n_I examples. FI#: of those scored, features of a score above 0; where only a "
        "random sample of the features was scored, the number in brackets says how many of all that would be. Score: "
        "mean share of held-out examples that the explanation was judged to fit. Score - chance: less the same on "
        "another feature's examples; with a 95 % bootstrap interval over features. One that covers 0 says nothing."
    ),
    (
        "L_r: mean squared error on the validation set, in the activations' own units; FVU on the tokens trained on, "
        "and on held-out ones. ||Cov||: spectral norm of the covariance of the dictionary's rows. A transcoder is "
        "measured on its own target."
    ),
    (
        "The best m features: mean score of as many features as another method has (Table 4), with the mean of the "
        "best m chance levels beside it (dashed in the picture): selecting by the score lifts the mean of mere noise, "
        "too. Random sets, of which there could be any number, are drawn as wide as the method that has most features."
    ),
]
BAE = ARCHITECTURES["bae"].label
COUNTS = {
    "activated": "the most active features (Act.)",
    "interpretable_of_all": "the most interpretable features (FI#)",
}
BEST = "of equal numbers of their best features, the BAE's have the best score"
NEED_A_JUDGE = ("interpretable_of_all",)


def comsem_results(comparison: Comparison, pages: list[Path]) -> Results:
    """The results of a comparison; `pages` are the feature browsers, which the page links to."""
    check = comparison.check
    layers = sorted(int(layer) for layer in comparison.table["layer"].dropna().unique())
    verdict = judge_verdict(comparison)
    warnings = [f"Warning: {warning}." for warning in check.warnings]
    return Results(
        page="comsem.html",
        title="ComSem: features named and scored (Table 1, Table 4)",
        tables={"comsem.csv": comparison.table, "best.csv": comparison.best},
        figures={f"scores-layer-{layer}.png": scores_figure(comparison, layer) for layer in layers},
        printed=[_printed(comparison.table)],
        notes=[*([] if check.useless else [verdict]), *warnings, *NOTES],
        claims=[best_line(rows) for _, rows in comparison.best.groupby(["layer", "m"])] + claims(comparison),
        remarks=[*check_lines(check, comparison.judge, comparison.usage), verdict],
        links=pages,
        warning=verdict if check.useless else "",
    )


def judge_verdict(comparison: Comparison) -> str:
    """One sentence: whether this judge's scores mean anything."""
    check = comparison.check
    measured = (
        f"The judge {comparison.judge} has a balanced accuracy of {check.balanced_accuracy:.2f} "
        f"[{check.accuracy_low:.2f}, {check.accuracy_high:.2f}] on {check.pairs} labelled pairs, where guessing has .5"
    )
    if check.useless:
        return (
            f"{measured}. It is useless: its scores say nothing about any of these features or methods, and no "
            "difference between them counts."
        )
    return f"{measured}. Scores are as good as that."


def best_line(rows: pd.DataFrame) -> str:
    """One line: the best m features of each method that has m."""
    layer, m = rows["layer"].iloc[0], rows["m"].iloc[0]
    told = [
        f"{row['label']} {row['score']:.3f} [{row['score_low']:.3f}, {row['score_high']:.3f}]"
        + ("" if math.isnan(row["chance"]) else f", chance {row['chance']:.3f}")
        for row in rows.to_dict("records")
        if not math.isnan(row["score"])
    ]
    return f"Layer {layer}, best {m}: {'; '.join(told)}."


def _printed(table: pd.DataFrame) -> Table:
    columns = {
        "layer": "{layer}",
        "method": "{label}",
        "Act.": "{activated}",
        "FI#": _interpretable,
        "Score": interval("score"),
        "Score - chance": interval("above_chance"),
        "unreadable + refused": lambda row: f"{row['unreadable'] + row['refusals']} of {row['judged']}",
        "L_r": "{mse_val:.2e}",
        "||Cov||": "{spectral_norm:.3f}",
        "FVU train / held-out": "{fvu_train:.3f} / {fvu_val:.3f}",
    }
    return table_of("ComSem (Table 1): scores with 95 % intervals over features", table, columns, left=["method"])


def _interpretable(row: dict[Any, Any]) -> str:
    found = f"{row['interpretable']} of {row['scored']}"
    return found if row["scored"] == row["activated"] else f"{found} ({row['interpretable_of_all']:.0f})"


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


def claims(comparison: Comparison) -> list[str]:
    """A line per claim, for each layer with a BAE and other methods.

    A useless judge cannot decide the claims that need a judge.
    """
    lines: list[str] = []
    useless = comparison.check.useless
    for layer, methods in comparison.table.dropna(subset=["layer"]).groupby("layer"):
        if BAE not in set(methods["label"]) or len(methods) < 2:
            continue
        for column, what in COUNTS.items():
            verdict = "cannot be told" if useless and column in NEED_A_JUDGE else _most(methods, column)
            lines.append(f"Paper: the BAE has {what}. Here, layer {layer}: {verdict}; {_counts(methods, column)}.")
        best = comparison.best[comparison.best["layer"] == layer].dropna(subset=["score"])
        verdict = "cannot be told" if useless else f"so at {_wins(best)} numbers"
        lines.append(f"Paper: {BEST}. Here, layer {layer}: {verdict}.")
    return lines


def _most(methods: pd.DataFrame, column: str) -> str:
    others = methods[methods["label"] != BAE][column].max()
    most = methods[methods["label"] == BAE][column].max() > others
    return first_of(len(methods)) if most else "not so"


def _counts(methods: pd.DataFrame, column: str) -> str:
    ordered = methods.sort_values(column, ascending=False)
    return ", ".join(f"{row['label']} {row[column]:.0f}" for row in ordered.to_dict("records"))


def _wins(best: pd.DataFrame) -> str:
    """At how many numbers of features the BAE scores best, of those that it and another method have."""
    compared = [rows for _, rows in best.groupby("m") if BAE in set(rows["label"]) and len(rows) > 1]
    won = sum(rows.sort_values("score")["label"].iloc[-1] == BAE for rows in compared)
    return f"{won} of {len(compared)}"
