"""Compression of hidden states: the paper's Table 3 and a rate-distortion picture."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bae_ray.report.figures import save_png
from bae_ray.report.html import write_report
from bae_ray.training.results import write_csv

MARKERS = {
    "BAE entropy": "o",
    "BAE indices": "s",
    "product": "^",
    "residual": "v",
    "int8": "D",
    "int4": "d",
    "mean": "x",
}
NOTES = [
    (
        "Held-out activations of other texts than those the autoencoders and quantisers were fitted on. Bytes of the "
        "codes are whole containers: payload, block tables, quantised prior, header. Model: all weights of the "
        "autoencoder; for quantisers, codebooks and ranges. The prior is the autoencoder's own (training set), or that "
        "of the compressed set itself, as in the paper's Appendix A.5."
    ),
    (
        "In the picture a filled marker counts all bytes, the model's shared by the vectors of this set; a hollow one "
        "the codes alone, which is what more and more vectors come to. Bits of entropy are those of the set's own "
        "firing rates."
    ),
    (
        "Spliced: the change of the language model's cross-entropy (nats per token) on held-out texts when the "
        "reconstruction takes the place of the layer's activations; beside it the same for the mean alone."
    ),
]


def rate_distortion_figure(table: pd.DataFrame) -> Figure:
    """Held-out FVU against bytes per vector, an axis per layer; filled: all bytes counted, hollow: the codes alone."""
    layers = sorted(table["layer"].unique())
    figure = Figure(figsize=(6 * len(layers), 5), layout="constrained")
    for axes, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        _draw(axes, table[table["layer"] == layer])
        axes.set(title=f"Layer {layer}", xlabel="Bytes per vector", ylabel="FVU on held-out vectors")
        axes.legend(fontsize="small")
    n = ", ".join(map(str, table["n"].unique()))
    figure.suptitle(f"Rate and distortion; n = {n}; filled: all bytes, hollow: codes alone")
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.assign(family=[_family(row) for row in rows.to_dict("records")])
    for number, (family, points) in enumerate(rows.groupby("family")):
        color = f"C{number}"
        every = (points["bytes_codes"] + points["bytes_model"]) / points["n"]
        codes = points["bytes_codes"] / points["n"]
        codes = codes.where(codes > 0, every)  # the mean alone has none
        marker = MARKERS[str(family)]
        axes.plot(
            np.stack([codes, every]), np.stack([points["fvu"], points["fvu"]]), color=color, alpha=0.3, linewidth=0.8
        )
        axes.scatter(every, points["fvu"], marker=marker, color=color, label=str(family), s=30)
        if marker == "x":
            axes.scatter(codes, points["fvu"], marker=marker, color=color, s=15)
        else:
            axes.scatter(codes, points["fvu"], marker=marker, facecolors="none", edgecolors=color, s=30)
    axes.set_xscale("log")
    axes.set_yscale("log")


def _family(row: dict) -> str:
    return f"BAE {row['scheme']}" if row["method"] == "bae" else str(row["method"]).split()[0]


def payback(row: dict) -> float:
    """Vectors at which the bytes saved by coding have paid for the model; infinite where coding saves none."""
    saved = (row["bytes_before"] - row["bytes_codes"]) / row["n"]
    return math.ceil(row["bytes_model"] / saved) if saved > 0 else math.inf


def report_compression(rows: list[dict], out: Path, config_json: str) -> pd.DataFrame:
    """Write compression.csv, .png and .html into `out`; print Table 3, the other methods and the paths."""
    table = pd.DataFrame([{**row, "payback_n": payback(row)} for row in rows])
    write_csv(table, out / "compression.csv")
    figure = rate_distortion_figure(table)
    save_png(figure, out / "compression.png")
    title = "Compression of hidden states (Table 3)"
    write_report(out / "compression.html", title, [figure], NOTES, table, config_json)
    _print(table)
    for kind in ("csv", "png", "html"):
        print(out / f"compression.{kind}")
    return table


def _print(table: pd.DataFrame) -> None:
    printed = Table(title="Compression of held-out vectors", title_justify="left")
    for column in (
        "layer", "method", "weight", "prior", "MB before", "MB codes + model", "bits/vector", "entropy", "MSE",
        "cos", "cos centred", "FVU", "CE change", "pays from n",
    ):  # fmt: skip
        printed.add_column(column, justify="right", no_wrap=True)
    for row in table.to_dict("records"):
        bae = row["method"] == "bae"
        printed.add_row(
            str(row["layer"]), _family(row) if bae else str(row["method"]), f"{row['entropy_weight']:g}" if bae else "",
            str(row["prior"]) if bae else "", f"{row['bytes_before'] / 1e6:.2f}",
            f"{row['bytes_codes'] / 1e6:.3f} + {row['bytes_model'] / 1e6:.2f}",
            f"{8 * row['bytes_codes'] / row['n']:.1f}", f"{row['entropy_bits']:.1f}" if bae else "",
            f"{row['mse']:.4g}", f"{row['cosine']:.3f}", f"{row['cosine_centred']:.3f}", f"{row['fvu']:.3f}",
            "" if math.isnan(row["ce_change"]) else f"{row['ce_change']:+.3f}",
            "never" if math.isinf(row["payback_n"]) else f"{row['payback_n']:,.0f}",
        )  # fmt: skip
    console = Console()
    Console(width=max(console.width, 200)).print(printed)
