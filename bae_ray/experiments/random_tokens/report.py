"""Entropy of the hidden states of random sequences against their bits r (the paper's Fig. 11)."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.analysis.claims import claim, trend
from bae_ray.report.numbers import known
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of
from bae_ray.training.caveats import caveat_lines, marks

MARKERS = "osD^vP"
NOTES = [
    (
        "Sequences of r tokens, each one of two at random, carry r bits, so the hidden states of the last one carry at "
        "most r bits (dashed). A point is a trained autoencoder; its colour is the FVU on held-out sequences: where "
        "that is high, the code does not describe the states, and its bits say little. Bars: 95 %."
    )
]


def random_tokens_figure(table: pd.DataFrame) -> Figure:
    """Bits against r on logarithmic axes, a marker per inner width, coloured by FVU."""
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.subplots()
    widths = sorted(table["d_latent"].unique())
    largest = max(float(table["fvu_val"].max()), 1e-6)
    for number, (width, marker) in enumerate(zip(widths, MARKERS * len(widths), strict=False)):
        runs = table[table["d_latent"] == width]
        x = runs["bits"] * 1.06 ** (number - (len(widths) - 1) / 2)
        bars = [
            (runs["entropy_bits"] - runs["entropy_low"]).clip(lower=0),
            (runs["entropy_high"] - runs["entropy_bits"]).clip(lower=0),
        ]
        axes.errorbar(x, runs["entropy_bits"], bars, fmt="none", ecolor="grey", capsize=2, zorder=1)
        axes.scatter(
            x, runs["entropy_bits"], c=runs["fvu_val"], cmap="magma_r", vmin=0, vmax=largest, marker=marker, s=45,
            edgecolors="grey", linewidths=0.5, label=f"{width}", zorder=2,
        )  # fmt: skip
    ranks = sorted(table["bits"].unique())
    axes.plot(ranks, ranks, linestyle="--", color="grey", linewidth=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set(xlabel="Bits r of the sequences", ylabel="Entropy / bits")
    axes.legend(title="Inner width", fontsize="small")
    figure.colorbar(axes.collections[-1], ax=axes, label="FVU on held-out sequences")
    n = ", ".join(map(str, (table["n_train"] + table["n_val"]).unique()))
    described = f"{', '.join(table['model'].unique())}, layer {', '.join(map(str, table['layer'].unique()))}"
    axes.set_title(f"{described}; n = {n}; seeds {', '.join(map(str, sorted(table['seed'].unique())))}")
    return figure


def compare(table: pd.DataFrame) -> list[str]:
    """The paper's claims beside what was found."""
    rises = trend(table, "bits", ["d_latent"])
    above = table[table["entropy_bits"] > table["bits"] * 1.02]
    return [
        claim("the calculated entropy rises with r", rises, "rises", "r", table),
        f"Paper: it is not larger than r. Here: larger by more than 2 % in {len(above)} of {len(table)} runs"
        + (f" (at r = {', '.join(map(str, sorted(above['bits'].unique())))})." if len(above) else "."),
    ]


def random_tokens_results(runs: pd.DataFrame) -> Results:
    """The results of the finished runs, which are rows of `results` with their `bits`."""
    table = runs.sort_values(["bits", "d_latent", "seed"], ignore_index=True)
    return Results(
        page="random_tokens.html",
        title="Entropy of the hidden states of random sequences",
        tables={"random_tokens.csv": table},
        figures={"random_tokens.png": random_tokens_figure(table)},
        printed=[_printed(table)],
        notes=[*NOTES, *caveat_lines(table)],
        claims=compare(table),
        remarks=caveat_lines(table),
    )


def _printed(table: pd.DataFrame) -> Table:
    columns = {
        "r": "{bits}",
        "inner width": "{d_latent}",
        "bits": "{entropy_bits:.2f}",
        "95 % interval": "{entropy_low:.2f} to {entropy_high:.2f}",
        "FVU training": "{fvu_train:.4f}",
        "bits held-out": _held_out,
        "FVU held-out": "{fvu_val:.4f}",
        "n": lambda row: row["n_train"] + row["n_val"],
        "seed": "{seed}",
        "": "{marks}",
    }
    title = "Entropy in bits of r-bit sequences' hidden states; of held-out ones with its 95 % interval"
    return table_of(title, table.assign(marks=marks(table)), columns, left=[""])


def _held_out(row: dict[str, Any]) -> str:
    bits, low, high = (known(row[f"entropy_{end}_val"], ".2f") for end in ("bits", "low", "high"))
    return bits if bits == "-" else f"{bits} [{low}, {high}]"
