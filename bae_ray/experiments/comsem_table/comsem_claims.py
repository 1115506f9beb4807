"""What the paper says of the binary autoencoder's features (section 5.3, Appendix C) beside what was found."""

import pandas as pd

from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.experiments.comsem_table.comparison import Comparison

BAE = ARCHITECTURES["bae"].label
COUNTS = {
    "activated": "the most active features (Act.)",
    "interpretable_of_all": "the most interpretable features (FI#)",
}
BEST = "of equal numbers of their best features, the BAE's have the best score"
NEED_A_JUDGE = ("interpretable_of_all",)


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
    return "agrees" if methods[methods["label"] == BAE][column].max() > others else "contradicts"


def _counts(methods: pd.DataFrame, column: str) -> str:
    ordered = methods.sort_values(column, ascending=False)
    return ", ".join(f"{row['label']} {row[column]:.0f}" for row in ordered.to_dict("records"))


def _wins(best: pd.DataFrame) -> str:
    """At how many numbers of features the BAE scores best, of those that it and another method have."""
    compared = [rows for _, rows in best.groupby("m") if BAE in set(rows["label"]) and len(rows) > 1]
    won = sum(rows.sort_values("score")["label"].iloc[-1] == BAE for rows in compared)
    return f"{won} of {len(compared)}"
