"""Pictures: features' tokens in a plane, and shapes against scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bae_ray.analysis.score_trend import ScoreTrend
from bae_ray.experiments.feature_shape.score_comparison import GIVEN, HIGH, LOW, MEASURES, above_chance
from bae_ray.experiments.feature_shape.shape_files import Plane
from bae_ray.report.numbers import known

COLUMNS = 3
LONGEST = 44
"""Letters of an explanation in a panel's title."""


def plane_figure(table: pd.DataFrame, planes: Mapping[int, Plane]) -> Figure:
    """A panel per feature that is shown: active tokens over the others of their sentences; high scores above low."""
    shown = table[table["feature"].isin(list(planes))].to_dict("records")
    rows = [
        some[start : start + COLUMNS]
        for why in (HIGH, LOW, GIVEN)
        if (some := [row for row in shown if row["shown"] == why])
        for start in range(0, len(some), COLUMNS)
    ]
    figure = Figure(figsize=(4.2 * COLUMNS, 4.3 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for line, some in zip(grid, rows, strict=True):
        for axes in line[len(some) :]:
            axes.set_axis_off()
        for axes, row in zip(line, some, strict=False):
            _draw_plane(axes, {str(name): value for name, value in row.items()}, planes[row["feature"]])
    figure.suptitle("UMAP of all tokens, but each first one, of the sentences in which a feature is active")
    return figure


def _draw_plane(axes: Axes, row: dict[str, Any], plane: Plane) -> None:
    places, active = np.array(plane.places), np.array(plane.active)
    for chosen, color, size, label in ((~active, "lightgrey", 3, "inactive"), (active, "C3", 7, "active")):
        axes.scatter(*places[chosen].T, s=size, c=color, linewidths=0, rasterized=True, label=label)
    axes.set(xticks=[], yticks=[])
    why = "" if row["shown"] == GIVEN else f"{row['shown']} score, "
    explanation = row["explanation"] if isinstance(row["explanation"], str) else ""
    short = explanation if len(explanation) <= LONGEST else f"{explanation[: LONGEST - 3]}..."
    # A dollar sign would begin a formula.
    axes.set_title(
        f"{row['feature']}: {why}{known(row['score'], '.2f')}; {row['active']:.0f} of {row['tokens']:.0f} tokens\n"
        f"purity {row['purity']:.2f} (chance {row['purity_chance']:.2f}), in the plane {plane.purity:.2f}\n"
        + short.replace("$", r"\$"),
        fontsize="small",
    )
    axes.legend(fontsize="x-small", loc="best", markerscale=2)


def score_figure(table: pd.DataFrame, trends: Mapping[str, ScoreTrend]) -> Figure:
    """A panel per measure: each feature's value above chance against its score, with the rank correlation."""
    figure = Figure(figsize=(4.2 * len(trends), 4), layout="constrained")
    scored = table.dropna(subset=["score"])
    for axes, (name, trend) in zip(figure.subplots(1, len(trends), squeeze=False)[0], trends.items(), strict=True):
        for why, color in (("", "grey"), (HIGH, "C3"), (LOW, "C0"), (GIVEN, "C2")):
            some = scored[scored["shown"] == why]
            values = above_chance(some, name)
            axes.scatter(some["score"], values, s=9 if not why else 28, c=color, linewidths=0, label=why or None)
        axes.axhline(0, color="black", linewidth=0.6)
        rho, low, high = (known(value, "+.2f") for value in trend.correlation)
        axes.set(xlabel="Score", xlim=(-0.03, 1.03), ylabel=f"{MEASURES[name]} above chance")
        axes.set_title(f"rank correlation {rho} [{low}, {high}]", fontsize="small")
    figure.suptitle(f"Shape against score: {len(scored)} features")
    return figure
