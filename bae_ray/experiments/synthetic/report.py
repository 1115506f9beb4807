"""The results of the synthetic benchmark: the paper's Fig. 2, 12 and 29-34, and a table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table

from bae_ray.analysis.claims import sample
from bae_ray.experiments.synthetic.subset_sums import rank_of
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import text_table
from bae_ray.training.results import results
from bae_ray.training.run_folder import METRICS_FILE

GRADIENT_COLORS = {"sigmoid": "tab:green", "straight_through": "tab:orange", "release": "tab:purple"}
GRADIENT_NAMES = {"sigmoid": "sigmoid (Eq. 6)", "straight_through": "straight-through", "release": "released code"}
ENTROPY_COLORS = {True: "tab:green", False: "tab:red"}
MARKERS = "osD^vP"
CLEAR_FVU = 1e-2
"""At this FVU and above a point is drawn faint: its code does not describe the set."""
PAPER_EXPANSION, PAPER_GRADIENT = 4, "sigmoid"
MOST_OFF_SHARE, MOST_OFF = 0.02, 0.25
"""Within this share of r, or so many bits, an entropy counts as found."""
CLOSE = 0.1
"""An entropy this share from r counts as close to it."""

NOTES = [
    (
        "Each set has r bits by construction. A point is a trained autoencoder: its marginal entropy over all vectors, "
        "faint where it leaves a hundredth of the variance or more unexplained."
    ),
    "With the entropy loss: entropy and covariance weights as configured; without: both 0.",
]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `results` that the figures are made of, a row per run, by rank."""
    tidied = pd.DataFrame(
        {
            "rank": table["site"].map(rank_of),
            "gradient": table["autoencoder.gradient"],
            "expansion": table["autoencoder.expansion"],
            "entropy_loss": (table["training.entropy_weight"] > 0) | (table["training.covariance_weight"] > 0),
            "entropy_bits": table["entropy_bits"],
            "tree_bits": table["tree_bits"],
            "heldout_bits": table["heldout_bits"],
            "fvu_train": table["fvu_train"],
            "fvu_val": table["fvu_val"],
            "n": table["n_train"] + table["n_val"],
            "recipe": table["training.recipe"],
            "steps": table["training.epochs"] * _steps_per_epoch(table),
            "seed": table["seed"],
            "run": table["run"],
        }
    )
    return tidied.sort_values(["rank", "gradient", "expansion", "entropy_loss", "seed"], ignore_index=True)


def _steps_per_epoch(table: pd.DataFrame) -> pd.Series:
    return table["n_train"] // table[["training.batch_size", "n_train"]].min(axis=1)


def entropy_by_rank(table: pd.DataFrame) -> Figure:
    """Bits against r with and without the entropy loss, by expansion (Fig. 2), marginal and under a tree.

    Beside them bits and FVU for every gradient.
    """
    figure = Figure(figsize=(21, 5), layout="constrained")
    by_loss, under_tree, by_gradient, unexplained = figure.subplots(1, 4)
    expansions = sorted(table["expansion"].unique())
    markers = dict(zip(expansions, MARKERS * len(expansions), strict=False))
    paper = table[table["gradient"] == PAPER_GRADIENT]
    for (expansion, entropy_loss), runs in paper.groupby(["expansion", "entropy_loss"]):
        for axes, column in ((by_loss, "entropy_bits"), (under_tree, "tree_bits")):
            _points(axes, runs, column, ENTROPY_COLORS[bool(entropy_loss)], markers[expansion])
    handles = [
        _handle(color, "o", f"{'with' if on else 'without'} entropy loss") for on, color in ENTROPY_COLORS.items()
    ]
    handles += [_handle("grey", marker, f"expansion {expansion}x") for expansion, marker in markers.items()]
    _frame(by_loss, table, "Entropy loss and expansion", "Entropy / bits", handles)
    _frame(under_tree, table, "The same under a tree", "Tree bits", handles)
    shown = table[(table["expansion"] == PAPER_EXPANSION) & table["entropy_loss"]]
    for aside, (gradient, runs) in zip((0.9, 1.0, 1.1), shown.groupby("gradient"), strict=False):
        color = GRADIENT_COLORS[str(gradient)]
        _points(by_gradient, runs, "entropy_bits", color, "o", aside)
        _points(unexplained, runs, "fvu_val", color, "o", aside)
    handles = [_handle(color, "o", GRADIENT_NAMES[gradient]) for gradient, color in GRADIENT_COLORS.items()]
    _frame(by_gradient, table, f"Gradient of the step function, {PAPER_EXPANSION}x", "Entropy / bits", handles)
    _ranks(unexplained, table)
    unexplained.axhline(CLEAR_FVU, color="grey", linewidth=0.8, linestyle=":")
    unexplained.set_yscale("log")
    unexplained.set(title="What the code leaves unexplained", ylabel="FVU on held-out vectors")
    return figure


def compare(table: pd.DataFrame) -> list[str]:
    """The paper's claims of section 4.1 beside what was found, at its own expansion and gradient."""
    scaled = table[table["recipe"] == "scaled"]
    runs = table[(table["expansion"] == PAPER_EXPANSION) & (table["gradient"] == PAPER_GRADIENT)]
    return [_found(some) for _, some in scaled.groupby("expansion")] + [
        f"Paper: {said}. Here: {_closeness(some)}; {sample(some)}."
        for entropy_loss, said in (
            (True, "with the entropy loss the entropy is close to r"),
            (False, "without it the entropy is well above r"),
        )
        if len(some := runs[runs["entropy_loss"] == entropy_loss])
    ]


def _found(runs: pd.DataFrame) -> str:
    """In how many trainings of the recipe the set's entropy was found, and which are the others."""
    off = runs[["entropy_bits", "tree_bits"]].sub(runs["rank"], axis=0).abs().max(axis=1)
    found = (off <= np.maximum(MOST_OFF_SHARE * runs["rank"], MOST_OFF)) & (runs["fvu_val"] <= CLEAR_FVU)
    others = [f"r = {row['rank']} seed {row['seed']}: {_numbers(row)}" for _, row in runs[~found].iterrows()]
    steps = " or ".join(map(str, sorted(runs["steps"].unique())))
    return (
        f"Recipe scaled, expansion {runs['expansion'].iloc[0]}, {steps} steps: {found.sum()} of {len(runs)} trainings "
        f"have r bits within {MOST_OFF_SHARE:.0%} or {MOST_OFF} bit, marginal and under a tree, at FVU of at most "
        f"{CLEAR_FVU:g}; {sample(runs)}." + (f" The others: {'; '.join(others)}." if others else "")
    )


def _numbers(row: pd.Series) -> str:
    return f"{row['entropy_bits']:.2f} bits, tree {row['tree_bits']:.2f}, FVU {row['fvu_val']:.1e}"


def _closeness(runs: pd.DataFrame) -> str:
    """How many of the runs are close to r, and the farthest of all."""
    off = (runs["entropy_bits"] - runs["rank"]).abs() / runs["rank"]
    above = (runs["entropy_bits"] > (1 + CLOSE) * runs["rank"]).sum()
    worst = runs.iloc[int(off.argmax())]
    return (
        f"{(off <= CLOSE).sum()} of {len(runs)} trainings are within {CLOSE:.0%} of r and {above} above; the farthest "
        f"has {worst['entropy_bits']:.2f} bits for r = {worst['rank']} at FVU {worst['fvu_train']:.1e} on training and "
        f"{worst['fvu_val']:.1e} on held-out vectors"
    )


def synthetic_results(runs: Path, finished: list[str]) -> Results:
    """The results of the finished runs in the folder `runs`."""
    table = tidy(results(runs, only=finished))
    figures = {"synthetic.png": entropy_by_rank(table)}
    if (trained := dynamics(table, runs)) is not None:
        figures["dynamics.png"] = trained
    return Results(
        page="report.html",
        title="Entropy of synthetic sets of known entropy",
        tables={"synthetic.csv": table},
        figures=figures,
        printed=[_printed(table)],
        notes=NOTES,
        claims=compare(table),
    )


def _printed(table: pd.DataFrame) -> Table:
    kind, ranks = "gradient, expansion, entropy loss", sorted(table["rank"].unique())
    rows = [
        {
            kind: f"{gradient}, {expansion}x, {'with' if entropy_loss else 'without'}",
            **{f"r = {rank}": _cell(runs[runs["rank"] == rank]) for rank in ranks},
        }
        for (gradient, expansion, entropy_loss), runs in table.groupby(["gradient", "expansion", "entropy_loss"])
    ]
    title = "Entropy in bits (lowest to highest over seeds); tree bits; worst FVU on training / held-out vectors"
    return text_table(title, rows, left=[kind])


def _cell(runs: pd.DataFrame) -> str:
    if runs.empty:
        return "-"
    bits, tree = (_range(runs[column]) for column in ("entropy_bits", "tree_bits"))
    return f"{bits}\n{tree}\n{runs['fvu_train'].max():.1e} / {runs['fvu_val'].max():.1e}"


def _range(bits: pd.Series) -> str:
    lowest, highest = f"{bits.min():.2f}", f"{bits.max():.2f}"
    return lowest if lowest == highest else f"{lowest} - {highest}"


def _points(axes: Axes, runs: pd.DataFrame, column: str, color: str, marker: str, aside: float = 1.0) -> None:
    """A point per run; `aside` moves those of one kind, so that they do not hide others."""
    faint = runs["fvu_val"] >= CLEAR_FVU
    for part, alpha in ((runs[~faint], 0.9), (runs[faint], 0.3)):
        axes.scatter(aside * part["rank"], part[column], c=color, marker=marker, alpha=alpha, s=36, linewidths=0)


def _frame(axes: Axes, table: pd.DataFrame, title: str, label: str, handles: list[Line2D]) -> None:
    ranks = _ranks(axes, table)
    axes.plot(ranks, ranks, color="grey", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(title=title, ylabel=label)
    axes.legend(handles=[*handles, Line2D([], [], color="grey", linestyle="--", label="r")], fontsize="small")


def _ranks(axes: Axes, table: pd.DataFrame) -> list[int]:
    ranks = sorted(int(rank) for rank in table["rank"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set_xlabel("Rank r of the set: its entropy in bits")
    return ranks


def _handle(color: str, marker: str, label: str) -> Line2D:
    return Line2D([], [], color=color, marker=marker, linestyle="", label=label)


def dynamics(table: pd.DataFrame, runs: Path) -> Figure | None:
    """Loss against entropy at every step, with and without the entropy loss (Fig. 12); None if no run logged steps.

    A row per rank. The colour is the step, from dark to bright.
    """
    traces = {
        (int(row["rank"]), bool(row["entropy_loss"])): trace
        for _, row in table.iterrows()
        if (trace := _trace(runs / str(row["run"]) / METRICS_FILE)) is not None
    }
    ranks = sorted({rank for rank, _ in traces})
    if not ranks:
        return None
    figure = Figure(figsize=(12, 3.8 * len(ranks)), layout="constrained")
    for axes, rank in zip(figure.subplots(len(ranks), 2, squeeze=False, sharey="row"), ranks, strict=True):
        for axis, entropy_loss in zip(axes, (True, False), strict=True):
            trace = traces.get((rank, entropy_loss))
            if trace is not None:
                points = axis.scatter(
                    trace["reconstruction"], trace["entropy"], c=trace["step"], s=3, cmap="viridis", rasterized=True
                )
                figure.colorbar(points, ax=axis, label="Step")
            axis.axhline(rank, color="grey", linewidth=0.8, linestyle="--")
            axis.set_xscale("log")
            axis.set_yscale("symlog", linthresh=1)
            axis.set_title(f"r = {rank}, {'with' if entropy_loss else 'without'} entropy loss")
            axis.set(xlabel="Reconstruction loss of the batch", ylabel="Entropy of the batch / bits")
    return figure


def _trace(file: Path) -> pd.DataFrame | None:
    """The metrics of a run that logged every step; None for another."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    frame = pd.DataFrame(lines)
    return frame if frame["step"].diff().max() == 1 else None
