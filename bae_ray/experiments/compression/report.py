"""Compression of hidden states: the paper's Table 3 and a rate-distortion picture."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of

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
    """Held-out FVU against bytes per vector, by layer. Filled markers: all bytes; hollow ones: the codes alone."""
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
    """From how many vectors on the bytes that coding saves exceed those of the model; infinite where it saves none."""
    saved = (row["bytes_before"] - row["bytes_codes"]) / row["n"]
    return math.ceil(row["bytes_model"] / saved) if saved > 0 else math.inf


def compression_results(rows: list[dict]) -> Results:
    """The results of these rows, one for each method."""
    table = pd.DataFrame([{**row, "payback_n": payback(row)} for row in rows])
    return Results(
        page="compression.html",
        title="Compression of hidden states (Table 3)",
        tables={"compression.csv": table},
        figures={"compression.png": rate_distortion_figure(table)},
        printed=[_printed(table)],
        notes=NOTES,
    )


def _printed(table: pd.DataFrame) -> Table:
    columns = {
        "layer": "{layer}",
        "method": lambda row: _family(row) if row["method"] == "bae" else row["method"],
        "weight": lambda row: _known(row["entropy_weight"], "g"),
        "prior": lambda row: row["prior"] if row["method"] == "bae" else "",
        "MB before": lambda row: f"{row['bytes_before'] / 1e6:.2f}",
        "MB codes + model": lambda row: f"{row['bytes_codes'] / 1e6:.3f} + {row['bytes_model'] / 1e6:.2f}",
        "bits/vector": lambda row: f"{8 * row['bytes_codes'] / row['n']:.1f}",
        "entropy": lambda row: _known(row["entropy_bits"], ".1f"),
        "MSE": "{mse:.4g}",
        "cos": "{cosine:.3f}",
        "cos centred": "{cosine_centred:.3f}",
        "FVU": "{fvu:.3f}",
        "CE change": lambda row: _known(row["ce_change"], "+.3f"),
        "pays from n": lambda row: "never" if math.isinf(row["payback_n"]) else f"{row['payback_n']:,.0f}",
    }
    return table_of("Compression of held-out vectors", table, columns)


def _known(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
