"""Comparing methods: the paper's Table 1 and Table 4 from a finished ComSem run and its trainings.

Reads nothing but the folders. A method with many features has room to drop its worst ones, so methods are compared at
equal numbers of features too: the best m, by sorted scores and their running mean (Fig. 24-28). Where only a random
sample of a method's features was scored, it stands for all of them.

Shapes: S features scored, B replicates.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bae_ray.comsem.judge_check import JudgeCheck
from bae_ray.comsem.summary import COUNTED, FEATURES_FILE, SUMMARY_FILE, USAGE_FILE
from bae_ray.comsem.usage import Usage
from bae_ray.experiments.comsem_table.methods import TableMethod

REPLICATES = 2000
COVERAGE = 0.95
SCORES_AT_ONCE = 1 << 22

Floats = NDArray[np.float64]
FROM_RUN = ("mse_val", "fvu_train", "fvu_val", "spectral_norm")
"""Columns of `results`: L_r on held-out tokens, FVU on training and held-out tokens, ||Cov||."""
FROM_SUMMARY = (
    "activated", "scored", "interpretable", "score", "score_low", "score_high", "chance", "chance_low", "chance_high",
    "above_chance", "above_chance_low", "above_chance_high", "judged", "unreadable", "refusals", "unexplained",
    "failed", "n_features", "n_tokens", "n_sentences", "mse", "l0", "entropy_bits", "p_yes", "random", "random_low",
    "random_high", "judge", "judge_accuracy", "judge_accuracy_low", "judge_accuracy_high", "judge_yes_bias",
    "judge_self_agreement", "judge_useless",
)  # fmt: skip


class Best(NamedTuple):
    """Mean score of a method's best features, with its 95 % interval; NaN where it has fewer features."""

    mean: float
    low: float
    high: float


NONE = Best(math.nan, math.nan, math.nan)


def ranked(scores: ArrayLike) -> Floats:
    """Scores from the best to the worst, without unknown ones (NaN)."""
    known = np.asarray(scores, dtype=np.float64)
    return np.sort(known[~np.isnan(known)])[::-1]


def running_mean(scores: ArrayLike) -> Floats:
    """Means of the best one, two, ... of the scores: the curves of Fig. 24-28."""
    found = ranked(scores)
    return np.cumsum(found, dtype=np.float64) / np.arange(1, len(found) + 1, dtype=np.float64)


def best(scores: ArrayLike, features: int, m: int, seed: int = 0) -> Best:
    """The mean over the best m of `features` features, of which `scores` are a random sample, or all.

    The interval is a bootstrap over the scores, where each replicate selects its own best ones.
    """
    known = ranked(scores)
    if not len(known) or not 1 <= m <= features:
        return NONE
    weights = _weights(len(known), len(known) * m / features)
    generator = np.random.default_rng(seed)
    at_once = max(1, SCORES_AT_ONCE // len(known))
    means = [
        np.sort(known[generator.integers(0, len(known), (min(at_once, REPLICATES - start), len(known)))])[:, ::-1]
        @ weights
        for start in range(0, REPLICATES, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Best(float(known @ weights), float(low), float(high))


def _weights(n: int, taken: float) -> Floats:
    """Weights of a mean over the first `taken` of n values; `taken` need not be a whole number."""
    return np.clip(taken - np.arange(n, dtype=np.float64), 0.0, 1.0) / np.float64(taken)


class Comparison(NamedTuple):
    """The data of the tables and figures."""

    table: pd.DataFrame
    """Table 1: a row per layer and method."""
    best: pd.DataFrame
    """Table 4: for each layer and method the mean score of its best m features. Each m is the number of one method."""
    features: dict[str, pd.DataFrame]
    """The scored features of each method, by its name."""
    check: JudgeCheck
    judge: str
    """The judge's model."""
    usage: Usage
    """Usage of the last run."""


def compare(methods: Sequence[TableMethod], runs: pd.DataFrame, folder: Path) -> Comparison:
    """Read a finished ComSem run in `folder`, of these methods; `runs` are the rows of `results` of their trainings."""
    record = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    summary = {row["method"]: row for row in record["methods"]}
    trained = {str(row["run"]): row for row in runs.to_dict("records")}
    features = {method.name: _scored(folder / method.name / FEATURES_FILE) for method in methods}
    table = pd.DataFrame([_row(method, summary[method.name], trained.get(method.run)) for method in methods])
    judge = record["judge"]
    return Comparison(
        table=table.astype({"layer": "Int64"}),
        best=_best(table, features),
        features=features,
        check=JudgeCheck(**{name: _known(judge[name]) for name in JudgeCheck._fields if name in judge}),
        judge=str(judge["model"]),
        usage=Usage(**json.loads((folder / USAGE_FILE).read_text(encoding="utf-8"))),
    )


def _row(method: TableMethod, summary: dict[str, Any], run: dict[Any, Any] | None) -> dict[str, Any]:
    scored = summary["scored"]
    share = summary["interpretable"] / scored if scored else math.nan
    return {
        "layer": method.layer,
        "label": method.label,
        "method": method.name,
        "run": method.run,
        **{name: _known(summary[name]) for name in FROM_SUMMARY},
        "interpretable_of_all": share * summary["activated"],
        "fvu_evaluation": _known(summary["fvu"]),
        **{name: math.nan if run is None else run[name] for name in FROM_RUN},
    }


def _best(table: pd.DataFrame, features: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row for each layer, each number of features m of one of its methods, and each method."""
    rows: list[dict[str, Any]] = []
    for layer in sorted(int(layer) for layer in table["layer"].dropna().unique()):
        at_layer = table[table["layer"] == layer]
        for m in sorted({int(activated) for activated in at_layer["activated"] if activated}):
            for row in at_layer.to_dict("records"):
                found = best(features[row["method"]]["score"], int(row["activated"]), m)
                chance = best(features[row["method"]]["chance"], int(row["activated"]), m)
                measured = {f"score{end}": value for end, value in zip(("", "_low", "_high"), found, strict=True)}
                rows.append({"layer": layer, "m": m, "label": row["label"], "method": row["method"], **measured,
                             "chance": chance.mean})  # fmt: skip
    return pd.DataFrame(rows, columns=["layer", "m", "label", "method", "score", "score_low", "score_high", "chance"])


def _scored(file: Path) -> pd.DataFrame:
    features = pd.read_parquet(file, columns=["feature", "status", "score", "chance"])
    return features[features["status"].isin(COUNTED)]


def _known(value: Any) -> Any:
    """A value of JSON, where null stands for NaN."""
    return math.nan if value is None else tuple(value) if isinstance(value, list) else value
