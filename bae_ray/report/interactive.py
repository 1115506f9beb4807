"""What the page of a sweep shows on a click: each run's measures and training curves, as JSON for sweep.js."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bae_ray.report.variants import variants
from bae_ray.training.results import position_order
from bae_ray.training.run import METRICS_FILE

MEASURES = {
    "entropy_bits": "Entropy / bits",
    "fvu_val": "FVU on held-out texts",
    "fvu_train": "FVU on training texts",
    "l0": "L0",
    "dead": "Dead latents",
    "dense": "Dense latents",
}
CURVES = ("loss", "reconstruction", "entropy")
MAX_POINTS = 60
"""Of a run's training curves."""


def sweep_data(table: pd.DataFrame, runs: Path) -> dict[str, Any]:
    """Of the rows of `results`: measures, variants, and for each run its cell, numbers and curves.

    Curves have at most MAX_POINTS points, spread evenly over the training.
    """
    chosen = variants(table)
    variant_of = {run: number for number, variant in enumerate(chosen) for run in variant.runs["run"]}
    return {
        "measures": list(MEASURES.items()),  # in this order: an object's keys would be sorted
        "variants": [variant.label or "all runs" for variant in chosen],
        "layers": sorted(int(layer) for layer in table["layer"].unique()),
        "positions": [str(x) for x in sorted(table["position"].unique().tolist(), key=position_order)],
        "runs": [
            {
                "run": row["run"],
                "layer": int(row["layer"]),
                "position": str(row["position"]),
                "seed": int(row["seed"]),
                "variant": variant_of[row["run"]],
                "low": row["entropy_low"],
                "high": row["entropy_high"],
                "subset_n": list(row["subset_n"]),
                "subset_bits": list(row["subset_bits"]),
                **{name: float(row[name]) for name in MEASURES},
                "curves": _curves(runs / row["run"] / METRICS_FILE),
            }
            for row in table.to_dict("records")
        ],
    }


def _curves(file: Path) -> dict[str, list[float]]:
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    picked = sorted({round(i * (len(lines) - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)}) if lines else []
    read = [json.loads(lines[i]) for i in picked]
    found = {name: [float(f"{line[name]:.5g}") for line in read] for name in CURVES if read and name in read[0]}
    return {"epoch": [line["epoch"] for line in read], **found}
