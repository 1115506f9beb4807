"""What each ingredient of the recipe `scaled` is worth: trainings without one of them, on sets of known entropy.

Sets of 16,384 vectors of width d that are random subset sums of r orthonormal ones, so that each has r bits; as many
steps for all. Bits over r, marginal and under a tree, and the variance left unexplained on held-out vectors, for each
seed. Writes a picture.

    python benchmarks/recipe.py [--width 128] [--ranks 8 32] [--seeds 0 1 2] [--threads 2] [--out recipe.png]
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bae_ray.autoencoders import BAEConfig
from bae_ray.experiments.synthetic.config import SyntheticConfig
from bae_ray.experiments.synthetic.subset_sums import random_subset_sums
from bae_ray.report.figures import save_png
from bae_ray.training.config import TrainingConfig
from bae_ray.training.recipe import resolved
from bae_ray.training.trainer import train

ARCHITECTURE = BAEConfig(expansion=4)
PAPER = TrainingConfig()


def variations(width: int, epochs: int) -> dict[str, TrainingConfig]:
    """The recipe's settings, written out, and these without one ingredient each."""
    scaled = TrainingConfig(recipe="scaled", epochs=epochs)
    whole = resolved(scaled, ARCHITECTURE, width).model_copy(update={"recipe": "paper"})
    without: dict[str, dict[str, Any]] = {
        "the recipe": {},
        "uniform initial weights": {"initial": "uniform"},
        "copies stay": {"merge_every": None},
        "uniform, copies stay": {"initial": "uniform", "merge_every": None},
        "the paper's lr 5e-4": {"lr": PAPER.lr},
        "ten times its lr": {"lr": 10 * whole.lr},
        "constant lr": {"lr_decay": PAPER.lr_decay},
        "the paper's weights": {
            "entropy_weight": PAPER.entropy_weight,
            "covariance_weight": PAPER.covariance_weight,
        },
        "a tenth of its entropy weight": {"entropy_weight": whole.entropy_weight / 10},
        "ten times its entropy weight": {"entropy_weight": 10 * whole.entropy_weight},
        "no covariance penalty": {"covariance_weight": 0.0},
        "uniform, all the paper's": {
            name: getattr(PAPER, name)
            for name in ("initial", "merge_every", "lr", "lr_decay", "entropy_weight", "covariance_weight")
        },
    }
    return {name: whole.model_copy(update=changed) for name, changed in without.items()}


def main(
    width: int = 128,
    ranks: tuple[int, ...] = (8, 32),
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: int = 20,
    threads: int = 2,
    out: Path = Path("recipe.png"),
) -> None:
    """Train, print a table, and draw it."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for rank in ranks:
        x, _ = random_subset_sums(rank, SyntheticConfig(d=width, ranks=(rank,)))
        for name, training in variations(width, epochs).items():
            for seed in seeds:
                found = train(x, ARCHITECTURE, training.model_copy(update={"seed": seed}), progress=False)
                assert found.joint is not None
                row = {"without": name, "rank": rank, "seed": seed, "bits": found.entropy.bits}
                rows.append({**row, "tree": found.joint.tree.bits, "fvu": found.val.fvu, "seconds": found.seconds})
    table = pd.DataFrame(rows)
    columns = ("training", "r", "bits", "tree bits", "held-out FVU", "seconds")
    printed = Table(*columns, title=f"d = {width}, {epochs} epochs, seeds {', '.join(map(str, seeds))}")
    for (rank, name), runs in table.groupby(["rank", "without"], sort=False):
        cells = [_ends(runs["bits"], ".2f"), _ends(runs["tree"], ".2f"), _ends(runs["fvu"], ".1e")]
        printed.add_row(str(name), str(rank), *cells, f"{runs['seconds'].mean():.1f}")
    Console(width=140).print(printed)
    save_png(_picture(table, width), out)
    print(f"picture  {out}")


def _ends(values: pd.Series, form: str) -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} - {high}"


def _picture(table: pd.DataFrame, width: int) -> Figure:
    """A row per training: bits over r and FVU of each seed."""
    ranks = sorted(table["rank"].unique())
    figure = Figure(figsize=(13, 4.8 * len(ranks)), layout="constrained")
    for (bits, fvu), rank in zip(figure.subplots(len(ranks), 2, sharey="row", squeeze=False), ranks, strict=True):
        runs = table[table["rank"] == rank]
        runs = runs.assign(tree=runs["tree"] / rank, bits=runs["bits"] / rank)
        _dots(bits, runs, {"bits": ("tab:orange", "marginal"), "tree": ("tab:green", "under a tree")}, 0.5)
        bits.axvline(1, color="grey", linestyle="--", linewidth=0.8)
        bits.set(title=f"d = {width}, r = {rank}", xlabel="Bits / r")
        bits.legend(fontsize="small")
        _dots(fvu, runs, {"fvu": ("tab:blue", "FVU")}, 1e-7)
        fvu.set(title="What the code leaves unexplained", xlabel="FVU on held-out vectors")
        bits.invert_yaxis()
    return figure


def _dots(axes: Axes, runs: pd.DataFrame, columns: dict[str, tuple[str, str]], lowest: float) -> None:
    """A point per seed; smaller values are at `lowest`."""
    names = list(dict.fromkeys(runs["without"]))
    places = runs["without"].map(names.index)
    for number, (column, (color, label)) in enumerate(columns.items()):
        axes.scatter(runs[column].clip(lower=lowest), places + 0.15 * number, color=color, s=24, alpha=0.7, label=label)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", linewidth=0.3)


if __name__ == "__main__":
    tyro.cli(main)
