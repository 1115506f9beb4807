"""Entropy of the hidden states of random sequences against their bits r (the paper's Fig. 11)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.analysis.claims import claim, trend
from bae_ray.report.numbers import known
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of
from bae_ray.training.caveats import caveat_lines, marks

MARKERS = "osD^vP"
PANELS = {
    "entropy": "Marginal entropy of the code (the paper's number)",
    "tree": "Entropy of the code under its tree",
    "heldout": "Code length of held-out sequences under the tree",
}
"""Kinds of bits, by how their columns begin, and the titles of their panels."""
NOTES = [
    (
        "Sequences of r tokens, each one of two at random, carry r bits, so the hidden states of the last one carry at "
        "most r bits (dashed). A point is a trained autoencoder; its colour is the FVU on held-out sequences: where "
        "that is high, the code does not describe the states, and its bits say little. Bars: 95 %."
    )
]


def random_tokens_figure(table: pd.DataFrame) -> Figure:
    """Bits against r on logarithmic axes, a marker per inner width, coloured by FVU; a panel for each kind of bits."""
    shown = {name: title for name, title in PANELS.items() if table[f"{name}_bits"].notna().any()}
    figure = Figure(figsize=(1 + 6 * len(shown), 5.5), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (name, title) in zip(panels, shown.items(), strict=True):
        _points(axes, table, name)
        axes.set(title=title, xlabel="Bits r of the sequences")
    panels[0].set_ylabel("Bits")
    panels[0].legend(title="Inner width", fontsize="small")
    figure.colorbar(panels[-1].collections[-1], ax=list(panels), label="FVU on held-out sequences")
    n = ", ".join(map(str, (table["n_train"] + table["n_val"]).unique()))
    described = f"{', '.join(table['model'].unique())}, layer {', '.join(map(str, table['layer'].unique()))}"
    figure.suptitle(f"{described}; n = {n}; seeds {', '.join(map(str, sorted(table['seed'].unique())))}")
    return figure


def _points(axes: Axes, table: pd.DataFrame, name: str) -> None:
    columns = [f"{name}_{end}" for end in ("bits", "low", "high")]
    table = table.astype(dict.fromkeys(columns, float))
    widths = sorted(table["d_latent"].unique())
    largest = max(float(table["fvu_val"].max()), 1e-6)
    for number, (width, marker) in enumerate(zip(widths, MARKERS * len(widths), strict=False)):
        runs = table[table["d_latent"] == width]
        x = runs["bits"] * 1.06 ** (number - (len(widths) - 1) / 2)
        bits, low, high = (runs[column] for column in columns)
        bars = np.stack([(bits - low).clip(lower=0), (high - bits).clip(lower=0)])
        axes.errorbar(x, bits, bars, fmt="none", ecolor="grey", capsize=2, zorder=1)
        axes.scatter(
            x, bits, c=runs["fvu_val"], cmap="magma_r", vmin=0, vmax=largest, marker=marker, s=45,
            edgecolors="grey", linewidths=0.5, label=f"{width}", zorder=2,
        )  # fmt: skip
    ranks = sorted(table["bits"].unique())
    axes.plot(ranks, ranks, linestyle="--", color="grey", linewidth=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])


def compare(table: pd.DataFrame) -> list[str]:
    """The paper's claims beside what was found."""
    rises = trend(table, "bits", ["d_latent"])
    lines = [claim("the calculated entropy rises with r", rises, "rises", "r", table)]
    kinds = {
        "entropy_bits": "the marginal entropy",
        "tree_bits": "the entropy under a tree",
        "joint_bits": "the joint entropy",
    }
    for name, said in kinds.items():
        told = table[table[name].notna()]
        above = told[told[name] > told["bits"] * 1.02]
        where = f" (at r = {', '.join(map(str, sorted(above['bits'].unique())))})" if len(above) else ""
        if len(told):
            lines.append(
                f"Paper: it is not larger than r. Here: {said} is larger by more than 2 % in "
                f"{len(above)} of {len(told)} runs{where}."
            )
    return lines


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
        "tree bits": lambda row: known(row["tree_bits"], ".2f"),
        "joint": lambda row: known(row["joint_bits"], ".2f"),
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
