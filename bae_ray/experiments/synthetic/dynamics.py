"""Training dynamics: loss against entropy at every step (the paper's Fig. 12 and 29-34)."""

import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bae_ray.training.run_folder import METRICS_FILE


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
