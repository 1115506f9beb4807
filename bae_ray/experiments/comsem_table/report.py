"""Methods compared by ComSem: the paper's Table 1 and Table 4 and Fig. 24-28, and how far the judge can be trusted."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from bae_ray.experiments.comsem_table.comparison import Comparison
from bae_ray.experiments.comsem_table.comsem_claims import claims
from bae_ray.experiments.comsem_table.comsem_scores import scores_figure
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
