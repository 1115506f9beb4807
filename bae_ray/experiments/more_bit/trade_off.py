"""What more bits per feature gain and cost: the paper's Table 2 as a picture and a printed table, and its claims."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.analysis.claims import claim, first_of, trend
from bae_ray.experiments.more_bit.measurements import BASELINE, by_layer
from bae_ray.report.terminal import Column, table_of

SPLITS = {"fvu_train": "training", "fvu_val": "held out", "fvu_evaluation": "other texts"}


def trade_off_figure(table: pd.DataFrame, layer: int) -> Figure:
    """Table 2 as a picture: the gain in FVU, the loss of active features, and the bits."""
    rows = table[table["layer"] == layer]
    bae, scaled, sae = _kinds(rows)
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    loss, active, rate = figure.subplots(1, 3)
    for number, (column, split) in enumerate(SPLITS.items()):
        loss.plot(bae["bits_per_feature"].astype(int), bae[column], "o-", color=f"C{number}", label=f"BAE, {split}")
        for value in sae[column]:
            loss.axhline(value, color=f"C{number}", linestyle=":", label=f"{BASELINE}, {split}")
    loss.set(xlabel="C / bits per feature", ylabel="FVU", xticks=bae["bits_per_feature"].astype(int))
    loss.set_ylim(0, 1.4 * float(rows[list(SPLITS)].to_numpy(dtype=float).max()))
    loss.legend(fontsize="small", ncols=2, loc="upper center")
    _labelled(active, bae, "activated", "mse_val")
    active.scatter(scaled["activated"], scaled["mse_val"], marker="^", color="C2", label="BAE, recipe scaled")
    active.scatter(sae["activated"], sae["mse_val"], marker="x", color="C3", label=BASELINE)
    active.set(xlabel="Active features (Act.)", ylabel="L_r on held-out vectors")
    active.legend(fontsize="small")
    _labelled(rate, bae, "entropy_bits", "fvu_val")
    rate.scatter(scaled["entropy_bits"], scaled["fvu_val"], marker="^", color="C2", label="BAE, recipe scaled")
    rate.set(xlabel="Marginal entropy / bits", ylabel="FVU on held-out vectors")
    settings = rows.iloc[0]
    figure.suptitle(
        f"{settings['model']}, layer {layer}: {settings['n_features']} features, {settings['n_train']} training and "
        f"{settings['n_val']} held-out vectors, {settings['n_tokens']} tokens of other texts"
    )
    return figure


def compare(table: pd.DataFrame, layer: int) -> list[str]:
    """The paper's claims beside what was found."""
    rows = table[table["layer"] == layer]
    bae, _, saes = _kinds(rows)
    loss, active = (
        trend(bae, "bits_per_feature", ["layer"], value, like_fvu=False) for value in ("mse_val", "activated")
    )
    lines = [
        claim("more bits, smaller L_r", loss, "falls", "C", bae, "L_r"),
        claim("more bits, fewer active features", active, "falls", "C", bae, "Act."),
    ]
    for sae in saes.to_dict("records") if len(bae) else ():
        fewest = int(bae["activated"].min())
        lines.append(
            f"Paper: for every C more active features than the {BASELINE}. Here: "
            f"{first_of(1 + len(bae)) if fewest > sae['activated'] else 'not so'}; at least {fewest} against "
            f"{sae['activated']}, at a held-out FVU of {bae['fvu_val'].min():.3f} to {bae['fvu_val'].max():.3f} "
            f"against {sae['fvu_val']:.3f}."
        )
    for at, here in by_layer(table):
        ones, saes = here[here["bits_per_feature"] == 1], here[here["method"] == BASELINE]
        for one, sae in product(ones.to_dict("records"), saes.to_dict("records")):
            lines.append(
                f"Paper: no dense features, and fewer dead ones, than the {BASELINE}. Here, layer {at}, "
                f"{one['method']}: {one['fires_densely']} fire densely against {sae['fires_densely']}, "
                f"{one['never_fires']} never against {sae['never_fires']}; {one['selected_densely']} are selected "
                f"densely against {sae['selected_densely']}, {one['never_selected']} never against "
                f"{sae['never_selected']}."
            )
    return lines


def _kinds(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The binary autoencoders by C, those of the recipe `scaled`, and the sparse one."""
    binary = rows["method"] != BASELINE
    return rows[binary & (rows["recipe"] == "paper")], rows[binary & (rows["recipe"] != "paper")], rows[~binary]


def _labelled(axes: Axes, bae: pd.DataFrame, x: str, y: str) -> None:
    """A line through the binary autoencoders, each labelled with its C."""
    axes.plot(bae[x], bae[y], "o-", color="C0", label="BAE")
    for i, row in enumerate(bae.to_dict("records")):  # above and below in turn: points may lie close together
        place = (6, 4 if i % 2 else -12)
        axes.annotate(f"C = {row['bits_per_feature']}", (row[x], row[y]), textcoords="offset points", xytext=place)
    axes.margins(0.15)


def printed_table(table: pd.DataFrame) -> Table:
    """Table 2 for the terminal, and the same of the figures' other layers."""
    scores: dict[str, Column] = {
        "FI#": lambda row: "-" if math.isnan(row["score"]) else f"{row['interpretable']:.0f} of {row['scored']:.0f}",
        "Score": "{score:.3f}",
        "Score - chance": _above_chance,
    }
    columns = {
        "layer": "{layer}",
        "method": "{method}",
        "features": "{n_features}",
        "L_r": "{mse_val:.3g}",
        "FVU": " / ".join(f"{{{split}:.3f}}" for split in SPLITS),
        "bits": lambda row: "-" if row["method"] == BASELINE else f"{row['entropy_bits']:.0f}",
        "Act.": "{activated}",
        **(scores if "score" in table else {}),
        "fire per token": "{fires_per_token:.1f}",
        "never fire": "{never_fires}",
        "fire densely": "{fires_densely}",
        "never selected": "{never_selected}",
        "selected densely": "{selected_densely}",
    }
    return table_of(
        "More-bit decoding: L_r held out; FVU training / held out / other texts", table, columns, ["method"]
    )


def _above_chance(row: Mapping[Any, Any]) -> str:
    mean, low, high = (row[f"above_chance{end}"] for end in ("", "_low", "_high"))
    return "-" if math.isnan(row["score"]) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
