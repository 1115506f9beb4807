"""Entropy at matched distortion: entropies are only comparable at the same FVU.

A small sweep of the entropy weight gives each cell a rate-distortion curve, bits against held-out FVU. Bits read at the
same FVU can be compared across cells.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from bae_ray.errors import InvalidInputError

WEIGHT = "training.entropy_weight"
"""The field in which the points of a curve differ."""
CELL = ["layer", "site", "position"]
HELD_OUT = {"val": "entropy_bits_val", "heldout": "heldout_bits"}
"""Bits of the held-out samples, by the prefix of their columns: marginal entropy, and code length."""
COVERAGE = 0.95


class Crossing(NamedTuple):
    """The bits of one curve at the wanted FVU."""

    bits: float
    """NaN if the curve does not contain this FVU."""
    reason: str
    """Why the curve does not contain it; empty if it does."""


SMALLEST = 1e-12
"""Smaller FVUs count as this one, to have a logarithm."""


def bits_at(fvu: float, curve_fvu: np.ndarray, curve_bits: np.ndarray) -> Crossing:
    """Bits at an FVU by interpolation between neighbouring points [K] of a curve, in the order of their weights.

    Bits are linear in log FVU between two points: for a Gaussian source they are (Cover and Thomas, 10.3.2). If the
    curve has the FVU several times, the fewest bits count: they suffice for this distortion.
    """
    found: list[float] = []
    for (f0, b0), (f1, b1) in pairwise(zip(curve_fvu, curve_bits, strict=True)):
        if min(f0, f1) <= fvu <= max(f0, f1):
            start, end, at = (math.log(max(value, SMALLEST)) for value in (f0, f1, fvu))
            share = 0.0 if start == end else (at - start) / (end - start)
            found.append(b0 + share * (b1 - b0))
    if not found and len(curve_fvu) == 1 and curve_fvu[0] == fvu:
        found.append(float(curve_bits[0]))
    if found:
        return Crossing(float(min(found)), "")
    low, high = float(curve_fvu.min()), float(curve_fvu.max())
    if low > fvu:
        return Crossing(math.nan, f"FVU stays above {low:.2g}: less weight, more training or more texts")
    return Crossing(math.nan, f"FVU stays below {high:.2g}: more weight")


def matched_entropy(table: pd.DataFrame, fvu: float, fixed_weight: float | None = None) -> pd.DataFrame:
    """Bits at held-out FVU `fvu` for each cell of the rows of `results`: a row per cell.

    The rows may differ only in cell, seed and entropy weight: curves of different architectures must not be mixed.

    Each seed has a curve of its own. `bits`, the marginal entropy over all samples, is the mean over the seeds whose
    curve has that FVU, `low` and `high` the ends of its 95 % interval (Student's t; NaN for one seed; cut to possible
    entropies, 0 to `d_latent`), `seeds` the number of these seeds of all `of` seeds; `reason` says why the others do
    not have it. `val_bits`, `val_low`, `val_high` and `heldout_bits`, ... are the same of the held-out samples'
    marginal entropy and code length, which pair bits and FVU of the same samples; NaN where they were not measured. A
    code length may be above `d_latent`. `converged`: whether all trainings of the cell did. The columns `fixed_bits`,
    `fixed_fvu_train` and `fixed_fvu_val` are of one weight, by default the smallest above 0.

    Raises `InvalidInputError` for a `fixed_weight` that no run has.
    """
    weight = _fixed_weight(table, fixed_weight)
    rows: list[dict[str, object]] = []
    for cell, runs in table.groupby(CELL, sort=False):
        crossings = [_crossing(curve, fvu, "entropy_bits") for _, curve in runs.groupby("seed")]
        fixed = runs[runs[WEIGHT] == weight]
        most = float(runs["d_latent"].iloc[0])
        rows.append(
            {
                **dict(zip(CELL, cell, strict=True)),
                "fvu": fvu,
                **_over_seeds(crossings, most)._asdict(),
                "seeds": sum(not crossing.reason for crossing in crossings),
                "of": len(crossings),
                "n": int((runs["n_train"] + runs["n_val"]).iloc[0]),
                "reason": "; ".join(dict.fromkeys(crossing.reason for crossing in crossings if crossing.reason)),
                "fixed_weight": weight,
                "fixed_bits": float(fixed["entropy_bits"].mean()),
                "fixed_fvu_train": float(fixed["fvu_train"].mean()),
                "fixed_fvu_val": float(fixed["fvu_val"].mean()),
                **_held_out(runs, fvu, most),
                **({"converged": _all_converged(runs)} if "converged" in runs else {}),
            }
        )
    return pd.DataFrame(rows)


def common_fvu(tables: Iterable[pd.DataFrame]) -> float:
    """The smallest held-out FVU, to two digits, that most curves of the tables contain."""
    return common_level(
        [curve["fvu_val"] for table in tables for _, curve in table.groupby([*CELL, "seed"], sort=False)]
    )


def common_level(curves: Iterable[pd.Series]) -> float:
    """The smallest distortion above 0, to two digits, that most curves contain."""
    ranges = [(float(curve.min()), float(curve.max())) for curve in curves]
    ends = [(math.ceil(100 * low - 1e-6), math.floor(100 * high + 1e-6)) for low, high in ranges]
    candidates = sorted({end / 100 for both in ends for end in both if end > 0})
    counts = [sum(low - 1e-6 <= fvu <= high + 1e-6 for low, high in ranges) for fvu in candidates]
    return candidates[int(np.argmax(counts))]


def _fixed_weight(table: pd.DataFrame, wanted: float | None) -> float:
    weights = sorted(table[WEIGHT].unique().tolist())
    if wanted is None:
        return next((weight for weight in weights if weight > 0), weights[0])
    if wanted not in weights:
        listed = ", ".join(f"{weight:g}" for weight in weights)
        raise InvalidInputError(f"no run has entropy weight {wanted:g}: give one of {listed} to compare with.")
    return wanted


def _crossing(curve: pd.DataFrame, fvu: float, measure: str) -> Crossing:
    ordered = curve.sort_values(WEIGHT)
    return bits_at(fvu, ordered["fvu_val"].to_numpy(dtype=float), ordered[measure].to_numpy(dtype=float))


def _all_converged(runs: pd.DataFrame) -> bool | None:
    """Whether the trainings of all points did; None where it is not known of some."""
    told = runs["converged"]
    return False if told.eq(False).any() else None if told.isna().any() else True


class _Mean(NamedTuple):
    bits: float
    low: float
    high: float


def _over_seeds(crossings: list[Crossing], most: float) -> _Mean:
    """The mean over the seeds whose curve has the FVU, and its interval."""
    found = np.array([crossing.bits for crossing in crossings if not crossing.reason])
    mean, half = (float(found.mean()), _half_width(found)) if len(found) else (math.nan, math.nan)
    return _Mean(mean, min(max(mean - half, 0.0), mean), max(min(mean + half, most), mean))


def _held_out(runs: pd.DataFrame, fvu: float, most: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for prefix, measure in HELD_OUT.items():
        curves = [curve for _, curve in runs.groupby("seed") if measure in curve and curve[measure].notna().all()]
        crossings = [_crossing(curve, fvu, measure) for curve in curves]
        mean = _over_seeds(crossings, most if prefix == "val" else math.inf)
        found |= {f"{prefix}_{name}": value for name, value in mean._asdict().items()}
    return found


def _half_width(values: np.ndarray) -> float:
    """Half of the interval of a mean, by Student's t."""
    from scipy import stats

    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf((1 + COVERAGE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
