"""From each text's sums to a run's measures, with intervals by resampling texts.

The intervals hold for texts like the held-out ones, and for this trained autoencoder. Shapes: n texts, R resamples.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bae_ray.training.run_fidelity import RunFidelity

PERCENTILES = (2.5, 97.5)
RATES = ("kl", "jsd", "top1_agreement")


class RunRows(NamedTuple):
    """The rows of a run and of its controls, on the same texts (`units.COLUMNS`)."""

    run: pd.DataFrame
    mean: pd.DataFrame
    zero: pd.DataFrame


def summarize(rows: RunRows, resamples: int, seed: int) -> RunFidelity:
    """The columns of a run. Runs of the same texts are resampled alike."""
    texts = sorted(set(rows.run["text"]))
    draws = np.random.default_rng(seed).multinomial(len(texts), np.full(len(texts), 1 / len(texts)), resamples)
    weights = np.vstack([np.ones(len(texts)), draws])  # [1 + R, n]; the first row is the texts themselves
    sums = _sums(rows, texts)
    tokens = weights @ sums["tokens"]
    means = {name: weights @ values / tokens for name, values in sums.items() if name != "tokens"}
    spliced, clean = means["ce_spliced"], means["ce_clean"]
    told: dict[str, Any] = {name: _known(means[name][0]) for name in ("ce_clean", "ce_spliced", "ce_mean", "ce_zero")}
    told |= _with_ends("ce_recovered", recovered(means["ce_zero"], spliced, clean))
    told |= _with_ends("ce_recovered_mean", recovered(means["ce_mean"], spliced, clean))
    for name in RATES:
        told |= _with_ends(name, means[name])
    return RunFidelity(fidelity_texts=len(texts), fidelity_tokens=int(sums["tokens"].sum()), **told)


def by_position(rows: RunRows) -> list[dict[str, Any]]:
    """Means over tokens, by their distance from the first token that sees a replaced activation."""
    parts = {
        name: _totals(getattr(rows, name).drop(columns=["subject", "text"]), ["first", "last"]) for name in rows._fields
    }
    told: list[dict[str, Any]] = []
    for (first, last), run in parts["run"].iterrows():  # pyright: ignore[reportGeneralTypeIssues] - a MultiIndex
        tokens = run["tokens"]
        others = {f"ce_{name}": parts[name].loc[(first, last), "ce"] for name in ("mean", "zero")}
        ce = {"ce_clean": run["ce_clean"], "ce_spliced": run["ce"], **others}
        told.append(
            {
                "first": int(first),
                "last": int(last),
                "tokens": int(tokens),
                **{name: _known(value / tokens) for name, value in ce.items()},
                **{name: float(run[name] / tokens) for name in RATES},
            }
        )
    return told


def _sums(rows: RunRows, texts: list[int]) -> dict[str, np.ndarray]:
    """Sums of each text [n]."""

    def of(table: pd.DataFrame, column: str) -> np.ndarray:
        return _totals(table[["text", column]], ["text"]).loc[texts, column].to_numpy()

    own = {name: of(rows.run, name) for name in ("tokens", "ce_clean", *RATES)}
    return own | {
        "ce_spliced": of(rows.run, "ce"),
        "ce_mean": of(rows.mean, "ce"),
        "ce_zero": of(rows.zero, "ce"),
    }


def _totals(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Sums of each group; NaN, which cross-entropies without a next token are, stays NaN."""
    return table.groupby(by).agg(lambda values: values.sum(skipna=False))


def recovered(ablated: np.ndarray, spliced: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Share of an ablation's loss that is recovered; NaN if the ablation costs nothing."""
    cost = ablated - clean
    return np.divide(ablated - spliced, cost, out=np.full_like(cost, math.nan), where=cost != 0)


def _with_ends(name: str, values: np.ndarray) -> dict[str, float | None]:
    """The number over the texts themselves, and the ends of its 95 % interval over resampled ones."""
    known = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(known, PERCENTILES) if len(known) else (math.nan, math.nan)
    return {name: _known(values[0]), f"{name}_low": _known(low), f"{name}_high": _known(high)}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
