"""Entropy of in-context-learning prompts by layer and number of demonstrations (the paper's Fig. 4)."""

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.analysis.claims import claim, trend
from bae_ray.report.measures import known_measures
from bae_ray.report.numbers import known
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import text_table
from bae_ray.training.caveats import caveat_lines, marks

COLORS = matplotlib.colormaps["viridis"]
NOTES = [
    (
        "Entropy of the last token's activations of prompts with k demonstrations, by layer; the colour of a point is "
        "its FVU on held-out prompts. Bars are 95 % intervals, for prompts like all of these. Dotted: the entropy of "
        "the same codes under a tree, in which what latents do together counts once."
    ),
    (
        "sampled: demonstrations of their own for each query. fixed: the same k for all, as in the paper's released "
        "code; prompts that share all but the query differ less, so fewer bits with more demonstrations may be the "
        "sharing and not the learning: read both."
    ),
]
PAPER = {"layer": "a deeper layer contains more information", "k": "more demonstrations, less entropy"}


def entropy_figure(table: pd.DataFrame) -> Figure:
    """Bits against layer, a line per k; a panel for each way of choosing demonstrations."""
    ways = list(dict.fromkeys(table["demonstrations"]))
    figure = Figure(figsize=(6.5 * len(ways) + 1, 5), layout="constrained")
    panels = figure.subplots(1, len(ways), squeeze=False, sharey=True)[0]
    largest = float(table["fvu_val"].max())
    for axes, way in zip(panels, ways, strict=True):
        _lines(axes, table[table["demonstrations"] == way], largest)
        axes.set(title=f"{way} demonstrations", xlabel="Layer")
    panels[0].set_ylabel("Entropy / bits")
    panels[0].set_ylim(0, 1.05 * float(table["entropy_high"].max()))
    panels[0].legend(title="Demonstrations k", fontsize="small")
    figure.colorbar(panels[-1].collections[-1], ax=list(panels), label="FVU on held-out prompts")
    n = ", ".join(map(str, (table["n_train"] + table["n_val"]).unique()))
    seeds = ", ".join(map(str, sorted(table["seed"].unique())))
    figure.suptitle(f"{', '.join(table['model'].unique())}; n = {n} prompts; seeds {seeds}")
    return figure


def compare(table: pd.DataFrame) -> list[str]:
    """The paper's claims beside what was found, for each way of choosing demonstrations."""
    lines: list[str] = []
    for way, runs in table.groupby("demonstrations", sort=False):
        depth, shots = trend(runs, "layer", ["k"]), trend(runs, "k", ["layer"])
        lines.append(f"{way}: " + claim(PAPER["layer"], depth, "rises", "layer", runs))
        lines.append(f"{way}: " + claim(PAPER["k"], shots, "falls", "k", runs))
    return lines


def entropy_results(table: pd.DataFrame) -> Results:
    """The results of the finished runs, which are rows of `results` with their `demonstrations` and `k`."""
    return Results(
        page="entropy.html",
        title="In-context learning: entropy by layer and number of demonstrations",
        tables={"entropy.csv": table},
        figures={"entropy.png": entropy_figure(table)},
        printed=_printed(table),
        notes=[*NOTES, *caveat_lines(table)],
        claims=compare(table),
        remarks=caveat_lines(table),
    )


def _lines(axes: Axes, table: pd.DataFrame, largest_fvu: float) -> None:
    ks = sorted(table["k"].unique())
    for number, k in enumerate(ks):
        means = table[table["k"] == k].groupby("layer")[["entropy_bits", "entropy_low", "entropy_high"]].mean()
        bars = [
            (means["entropy_bits"] - means["entropy_low"]).clip(lower=0),
            (means["entropy_high"] - means["entropy_bits"]).clip(lower=0),
        ]
        color = COLORS(0.9 * number / max(len(ks) - 1, 1))
        axes.errorbar(means.index, means["entropy_bits"], bars, color=color, label=str(k), capsize=2, zorder=1)
        if known_measures(table, ["tree_bits"]):
            tree = table[table["k"] == k].astype({"tree_bits": float}).groupby("layer")["tree_bits"].mean()
            axes.plot(tree.index, tree, color=color, linestyle=":", zorder=1)
    axes.scatter(
        table["layer"], table["entropy_bits"], c=table["fvu_val"], cmap="magma_r", s=30, vmin=0, vmax=largest_fvu,
        edgecolors="grey", linewidths=0.5, zorder=2,
    )  # fmt: skip


def _printed(table: pd.DataFrame) -> list[Table]:
    """Bits of all prompts, and those of held-out ones where these were measured."""
    names = {"entropy_bits": ".0f", "tree_bits": ".0f", "fvu_train": ".2f", "fvu_val": ".2f"}
    form = "{entropy_bits} {tree_bits}  {fvu_train}/{fvu_val}"
    tables = [_grid(table, "Entropy in bits, tree bits, FVU on training / held-out prompts", names, form)]
    if known_measures(table, ["entropy_bits_val"]):
        names = {"entropy_bits_val": ".0f", "entropy_low_val": ".0f", "entropy_high_val": ".0f"}
        form = "{entropy_bits_val} [{entropy_low_val}, {entropy_high_val}]"
        tables.append(_grid(table, "Entropy of held-out prompts in bits, with its 95 % interval", names, form))
    return tables


def _grid(table: pd.DataFrame, title: str, names: dict[str, str], form: str) -> Table:
    columns = [f"layer {layer}" for layer in sorted(table["layer"].unique())]
    rows: dict[object, dict[str, object]] = {}
    for (way, k, layer), runs in table.groupby(["demonstrations", "k", "layer"], sort=False):
        means = runs[[*names]].astype(float).mean()
        told = {name: known(float(means[name]), digits) for name, digits in names.items()}
        row = rows.setdefault((way, k), {"demonstrations": way, "k": k, **dict.fromkeys(columns, "-")})
        row[f"layer {layer}"] = form.format(**told) + "".join(sorted(set("".join(marks(runs)))))
    return text_table(title, list(rows.values()), left=["demonstrations"])
