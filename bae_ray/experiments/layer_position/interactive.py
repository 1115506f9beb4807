"""Data of a sweep's interactive page: measures and training curves of each cell's runs, as JSON for sweep.js."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bae_ray.report.entropy_tables import variants
from bae_ray.report.measures import MEASURES, known_measures
from bae_ray.report.numbers import number, robust_limits
from bae_ray.training.curves import read_curves
from bae_ray.training.results import position_order
from bae_ray.training.run_folder import METRICS_FILE

CURVES = ("loss", "reconstruction", "entropy")
MAX_POINTS = 60
"""Of a run's training curves."""


def sweep_data(table: pd.DataFrame, runs: Path) -> dict[str, Any]:
    """Of the rows of `results`: measures, variants, and for each run its cell, numbers and curves.

    Curves have at most MAX_POINTS points, spread evenly over the training.
    """
    names = known_measures(table)
    table = table.astype(dict.fromkeys(names, float))
    chosen = variants(table)
    variant_of = {run: index for index, variant in enumerate(chosen) for run in variant.runs["run"]}
    layers = sorted(int(layer) for layer in table["layer"].unique())
    positions = sorted(table["position"].unique().tolist(), key=position_order)
    return {
        # Lists, in this order: an object's keys would be sorted.
        "measures": [(name, MEASURES[name].label) for name in names],
        "variants": [variant.label or "all runs" for variant in chosen],
        "layers": layers,
        "positions": [str(position) for position in positions],
        "maps": [{name: _map(variant.runs, name, layers, positions) for name in names} for variant in chosen],
        "runs": [
            {
                "run": row["run"],
                "layer": int(row["layer"]),
                "position": str(row["position"]),
                "seed": int(row["seed"]),
                "variant": variant_of[row["run"]],
                "shown": {name: number(row[name], MEASURES[name].decimals) for name in names},
                "low": row["entropy_low"],
                "high": row["entropy_high"],
                "subset_n": list(row["subset_n"]),
                "subset_bits": list(row["subset_bits"]),
                **{name: row[name] if np.isfinite(row[name]) else None for name in names},
                "curves": read_curves(runs / row["run"] / METRICS_FILE, CURVES, MAX_POINTS),
            }
            for row in table.to_dict("records")
        ],
    }


def _map(runs: pd.DataFrame, measure: str, layers: list[int], positions: list[Any]) -> dict[str, Any]:
    """The mean of a measure over each cell's runs [L, P], as numbers and as texts, and the ends of its colour scale."""
    means = runs.groupby(["layer", "position"])[measure].mean()
    values = np.array([[means.get((layer, position), np.nan) for position in positions] for layer in layers], float)
    limits, decimals = robust_limits(values), MEASURES[measure].decimals
    return {
        "z": [[float(value) if np.isfinite(value) else None for value in row] for row in values],
        "text": [[number(v, decimals) + limits.mark(v) if np.isfinite(v) else "" for v in row] for row in values],
        **limits._asdict(),
    }
