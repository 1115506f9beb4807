"""Bits of codes at equal effect on the language model's predictions: a second rate-distortion comparison.

The distortion is 1 - ce_recovered_mean: a reconstruction's cost in cross-entropy, relative to the mean's. A few
settings of a cell (an entropy or sparsity weight, k) give a curve of it; rates are read at the same CE recovered.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from bae_ray.analysis.matched_entropy import CELL, bits_at, common_level

ARCHITECTURE = "autoencoder.architecture"
RECOVERED = "ce_recovered_mean"
RATES = ("heldout_bits", "entropy_bits", "l0")
"""Only codes have bits; sparse autoencoders have L0."""


def matched_fidelity(table: pd.DataFrame) -> pd.DataFrame:
    """Rates at one CE recovered: a row per cell and architecture whose runs form a curve.

    `table` has the rows of `results` with the columns of fidelity. The CE recovered is the one that most curves
    contain. Each seed has a curve of its own: `heldout_bits`, `entropy_bits` and `l0` are means over the seeds whose
    curve has it, NaN where none does or the measure is not there; `seeds` is the number of these seeds of all `of`.
    Between two runs, rates are interpolated linearly in the logarithm of the distortion.
    """
    found = table[[*CELL, *(name for name in (ARCHITECTURE, "seed", *RATES) if name in table)]].copy()
    found["lost"] = 1 - table[RECOVERED].astype(float)
    found = found[found["lost"].notna()]
    sets = [*CELL, ARCHITECTURE] if ARCHITECTURE in found else CELL
    curves = [
        (key[:-1], curve.sort_values("lost"))
        for key, curve in _of_seeds(found, sets)
        if isinstance(key, tuple) and curve["lost"].nunique() > 1
    ]
    if not curves:
        return pd.DataFrame(columns=[*sets, RECOVERED, *RATES, "seeds", "of"])
    lost = common_level([curve["lost"] for _, curve in curves])
    rows: list[dict[str, object]] = []
    for key in dict.fromkeys(key for key, _ in curves):
        mine = [curve for other, curve in curves if other == key]
        having = [curve for curve in mine if curve["lost"].min() <= lost <= curve["lost"].max()]
        rates = {name: _mean([_rate(curve, name, lost) for curve in having]) for name in RATES}
        own = dict(zip(sets, key, strict=True))
        rows.append({**own, RECOVERED: 1 - lost, **rates, "seeds": len(having), "of": len(mine)})
    return pd.DataFrame(rows)


def _of_seeds(table: pd.DataFrame, sets: list[str]) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The runs of each set and seed; an autoencoder not trained here has no seed, and is no point of a curve."""
    return table.groupby([*sets, "seed"], sort=False) if "seed" in table else ()


def _rate(curve: pd.DataFrame, name: str, lost: float) -> float:
    if name not in curve or curve[name].isna().any():
        return math.nan
    return bits_at(lost, curve["lost"].to_numpy(dtype=float), curve[name].to_numpy(dtype=float)).bits


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
