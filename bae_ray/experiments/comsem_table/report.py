"""Methods compared by ComSem: the paper's Table 1 and Table 4 and Fig. 24-28, and how far the judge can be trusted."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from bae_ray.comsem.comparison import Comparison
from bae_ray.experiments.comsem_table.comsem_claims import claims
from bae_ray.experiments.comsem_table.comsem_scores import scores_figure
from bae_ray.report.comsem_terminal import print_check
from bae_ray.report.figures import save_png
from bae_ray.report.html import write_report
from bae_ray.training.results import write_csv

WIDTH = 170
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


def report_comsem_table(comparison: Comparison, pages: list[Path], out: Path, config_json: str) -> list[Path]:
    """Write comsem.csv, best.csv, a picture per layer and comsem.html into `out`; print tables and the judge's test.

    `pages` are the feature browsers, which the page links to. The files written, and these.
    """
    write_csv(comparison.table, out / "comsem.csv")
    write_csv(comparison.best, out / "best.csv")
    layers = sorted(int(layer) for layer in comparison.table["layer"].dropna().unique())
    figures = {out / f"scores-layer-{layer}.png": scores_figure(comparison, layer) for layer in layers}
    for path, figure in figures.items():
        save_png(figure, path)
    verdict, useless = judge_verdict(comparison), comparison.check.useless
    lines = [best_line(rows) for _, rows in comparison.best.groupby(["layer", "m"])] + claims(comparison)
    write_report(
        out / "comsem.html",
        "ComSem: features named and scored (Table 1, Table 4)",
        list(figures.values()),
        [
            *([] if useless else [verdict]),
            *(f"Warning: {warning}." for warning in comparison.check.warnings),
            *NOTES,
            *lines,
        ],
        comparison.table,
        config_json,
        links=[str(page.relative_to(out)) for page in pages],
        warning=verdict if useless else "",
    )
    _print(comparison.table)
    for line in lines:
        print(line)
    print_check(comparison.check, comparison.judge, comparison.usage)
    print(verdict)
    return [out / "comsem.csv", out / "best.csv", *figures, out / "comsem.html", *pages]


def judge_verdict(comparison: Comparison) -> str:
    """Whether this judge's scores mean anything, in a sentence."""
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
    """The best m features of each method that has so many, in one line."""
    layer, m = rows["layer"].iloc[0], rows["m"].iloc[0]
    told = [
        f"{row['label']} {row['score']:.3f} [{row['score_low']:.3f}, {row['score_high']:.3f}]"
        + ("" if math.isnan(row["chance"]) else f", chance {row['chance']:.3f}")
        for row in rows.to_dict("records")
        if not math.isnan(row["score"])
    ]
    return f"Layer {layer}, best {m}: {'; '.join(told)}."


def _print(table: pd.DataFrame) -> None:
    printed = Table(title="ComSem (Table 1): scores with 95 % intervals over features", title_justify="left")
    for column in (
        "layer", "method", "Act.", "FI#", "Score", "Score - chance", "unreadable + refused", "L_r", "||Cov||",
        "FVU train / held-out",
    ):  # fmt: skip
        printed.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in table.to_dict("records"):
        printed.add_row(
            "-" if pd.isna(row["layer"]) else str(row["layer"]),
            row["label"],
            str(row["activated"]),
            _interpretable(row),
            _interval(row, "score"),
            _interval(row, "above_chance"),
            f"{row['unreadable'] + row['refusals']} of {row['judged']}",
            _number(row["mse_val"], ".2e"),
            _number(row["spectral_norm"], ".3f"),
            f"{_number(row['fvu_train'], '.3f')} / {_number(row['fvu_val'], '.3f')}",
        )
    console = Console()
    Console(width=max(console.width, WIDTH)).print(printed)


def _interpretable(row: dict[Any, Any]) -> str:
    found = f"{row['interpretable']} of {row['scored']}"
    return found if row["scored"] == row["activated"] else f"{found} ({row['interpretable_of_all']:.0f})"


def _interval(row: dict[Any, Any], name: str) -> str:
    mean, low, high = (_number(row[name + end], ".3f") for end in ("", "_low", "_high"))
    return mean if low == "-" else f"{mean} [{low}, {high}]"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
