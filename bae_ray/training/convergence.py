"""Whether a training converged: how much loss, bits and FVU still changed over its last tenth of epochs.

Computed from metrics.jsonl, whose lines are means over training batches. The change is the slope of a line fitted to
the epochs of the last tenth, times their number: one epoch's noise counts little.
"""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

LAST = 0.1
"""Share of the epochs that is looked at, but at least FEWEST epochs."""
FEWEST = 3
THRESHOLD = 0.01
"""A training has converged if loss, bits and FVU each change by at most this share of themselves,"""
BITS_THRESHOLD = 0.25
"""or bits by at most this many bits,"""
FVU_THRESHOLD = 0.001
"""or FVU by at most this, and the loss by at most this share of the first epoch's loss."""


class Convergence(NamedTuple):
    """How a training ended."""

    epochs: int
    """Number of epochs trained."""
    converged: bool
    """Whether none of the changes is above its threshold; False where there were fewer than FEWEST epochs."""
    loss_change: float | None
    """Relative change of the loss over the last tenth. None if there were too few epochs."""
    bits_change: float | None
    """Change of the entropy, in bits; also None without an entropy term."""
    fvu_change: float | None
    """Change of the FVU."""


def convergence(metrics: Path, bits: float, fvu: float) -> Convergence | None:
    """How the training of a run ended whose measures are `bits` and `fvu`, from its metrics.jsonl; None without it.

    Bits and FVU of a batch differ from the measures, since weights change and a batch is small: what is taken from
    the metrics is by which part of themselves they change.
    """
    epochs = _by_epoch(metrics)
    if not epochs:
        return None
    last = sorted(epochs)[-max(FEWEST, math.ceil(LAST * len(epochs))) :]
    if len(last) < FEWEST:
        return Convergence(max(epochs), False, None, None, None)
    parts = {name: _part(last, [epochs[epoch][name] for epoch in last]) for name in epochs[last[0]]}
    loss = parts["loss"]
    in_fvu, in_bits = fvu * parts["reconstruction"], bits * parts["entropy"] if "entropy" in parts else None
    level = float(np.mean([epochs[epoch]["loss"] for epoch in last]))
    small = FVU_THRESHOLD * abs(epochs[min(epochs)]["loss"])
    steady = [
        abs(loss) <= THRESHOLD or abs(loss * level) <= small,
        abs(in_fvu) <= max(THRESHOLD * fvu, FVU_THRESHOLD),
        in_bits is None or abs(in_bits) <= max(THRESHOLD * bits, BITS_THRESHOLD),
    ]
    return Convergence(max(epochs), all(steady), loss, in_bits, in_fvu)


def _by_epoch(metrics: Path) -> dict[int, dict[str, float]]:
    """Mean loss, reconstruction and entropy of each epoch; lines may be of epochs or of steps."""
    sums: dict[int, dict[str, float]] = {}
    counts: dict[int, int] = defaultdict(int)
    if metrics.exists():
        with open(metrics, encoding="utf-8") as file:
            for line in file:
                read = json.loads(line)
                found = sums.setdefault(read["epoch"], defaultdict(float))
                counts[read["epoch"]] += 1
                for name in ("loss", "reconstruction", "entropy"):
                    if name in read:
                        found[name] += read[name]
    return {epoch: {name: sum_ / counts[epoch] for name, sum_ in found.items()} for epoch, found in sums.items()}


def _part(epochs: list[int], values: list[float]) -> float:
    """By which part of its mean a value changes over the epochs."""
    slope, mean = float(np.polyfit(epochs, values, 1)[0]), float(np.mean(values))
    return slope * len(epochs) / abs(mean) if mean else 0.0
