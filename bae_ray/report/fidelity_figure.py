"""CE recovered against what a code takes: the second rate-distortion curve, beside that of the FVU."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.report.entropy_tables import variants
from bae_ray.report.figures import LAYER_COLORS

RECOVERED = {"ce_recovered_mean": "CE recovered, against the mean", "ce_recovered": "CE recovered, against zero"}
RATES = {"heldout_bits": "Bits of a held-out text under the tree", "l0": "L0: latents that fire"}
"""Sparse autoencoders have no bits, so they stand beside binary ones by the other."""
MARKERS = "osD^vP*X<>h8"
LOWEST, HIGHEST = -0.5, 1.5
"""Where the axis ends at the latest: intervals are wide where an ablation costs next to nothing."""


def fidelity_figure(table: pd.DataFrame) -> Figure | None:
    """A point per run with its 95 % interval, a colour per layer, a marker per variant; `table` is that of `results`.

    The dashed lines are the controls: 0 is the ablation, 1 the unchanged model. None where no run has these numbers.
    """
    if "kl" not in table or not table["kl"].notna().any():
        return None
    table = table[table["kl"].notna()]
    rates = {name: label for name, label in RATES.items() if name in table and table[name].notna().any()}
    if not rates:  # an autoencoder that was not trained here has no measures of its code
        return None
    known = {name: label for name, label in RECOVERED.items() if table[name].notna().any()}
    rows = known or {"kl": "KL(clean || spliced) / nats per token"}
    figure = Figure(figsize=(6.5 * len(rates), 4.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(rates), squeeze=False)
    for line, (measure, label) in zip(grid, rows.items(), strict=True):
        for axes, (rate, rate_label) in zip(line, rates.items(), strict=True):
            _points(axes, table, measure, rate)
            axes.set(xlabel=rate_label, ylabel=label)
            if measure != "kl":
                for control in (0, 1):
                    axes.axhline(control, color="grey", linestyle="--", linewidth=0.8)
                low, high = axes.get_ylim()
                axes.set_ylim(max(low, LOWEST), min(high, HIGHEST))
    grid[0][-1].legend(fontsize="small")
    texts = ", ".join(map(str, sorted(table["fidelity_texts"].astype(int).unique())))
    model = ", ".join(map(str, table["model"].unique()))
    figure.suptitle(f"{model}: reconstructions in place of activations, {texts} held-out texts, 95 % intervals")
    return figure


def _points(axes: Axes, table: pd.DataFrame, measure: str, rate: str) -> None:
    layers = sorted(table["layer"].unique())
    for number, variant in enumerate(variants(table)):
        for place, layer in enumerate(layers):
            runs = variant.runs[(variant.runs["layer"] == layer) & variant.runs[measure].notna()]
            runs = runs[runs[rate].notna()].astype(dict.fromkeys((measure, f"{measure}_low", f"{measure}_high"), float))
            if runs.empty:
                continue
            low, high = (runs[f"{measure}_{end}"] for end in ("low", "high"))
            bars = [(runs[measure] - low).clip(lower=0), (high - runs[measure]).clip(lower=0)]
            label = f"layer {layer}" + (f", {variant.label}" if variant.label else "")
            axes.errorbar(
                runs[rate].astype(float), runs[measure], bars, fmt=MARKERS[number % len(MARKERS)], elinewidth=0.8,
                color=LAYER_COLORS(0.9 * place / max(len(layers) - 1, 1)), label=label, markersize=4,
            )  # fmt: skip
