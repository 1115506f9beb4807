"""The shapes of all scored features against their scores, and against controls.

Shapes: G features.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bae_ray.analysis.feature_clusters import Ints
from bae_ray.analysis.score_trend import Estimate, ScoreTrend, mean, score_trend

MEASURES = {
    "purity": "kNN purity",
    "purity_beyond": "kNN purity among other token ids",
    "silhouette": "silhouette",
    "auc": "AUC along the dictionary row",
}
"""Columns that are compared, each less its value under shuffled labels."""
CONTROLS = {"": "active tokens", "frequency_": "tokens as frequent", "identity_": "tokens of the same ids"}
HIGH, LOW, GIVEN = "high", "low", "given"
FEWEST_ACTIVE = 20
"""A feature that is shown is active on at least so many tokens, where enough features are: fewer are no picture."""


def feature_table(scores: pd.DataFrame, measured: Mapping[int, Mapping[str, float]], counts: Ints) -> pd.DataFrame:
    """A row per measured feature, those of the highest scores first; features that were named only have no score.

    `counts` [G]: tokens on which each feature is active.
    """
    rows = pd.DataFrame([{"feature": feature, **row} for feature, row in measured.items()], columns=None)
    if rows.empty:
        rows = pd.DataFrame({"feature": pd.Series(dtype=np.int64)})
    table = scores.merge(rows, on="feature", how="right")
    table.insert(4, "active_in_all", counts[table["feature"].to_numpy(np.int64)])
    return table.sort_values(["score", "active_in_all"], ascending=False, ignore_index=True, kind="stable")


def features_shown(table: pd.DataFrame, given: Sequence[int] | None, n: int) -> list[str]:
    """For each row of `feature_table` why its feature is shown, or nothing.

    Those of the n highest and the n lowest scores; among equal ones those that are active on the most tokens.
    """
    if given is not None:
        return [GIVEN if feature in given else "" for feature in table["feature"].tolist()]
    scored = table.dropna(subset=["score"])
    often = scored[scored["active"] >= FEWEST_ACTIVE] if "active" in scored else scored
    ranked = (often if len(often) >= 2 * n else scored).sort_values(
        ["score", "active_in_all"], ascending=[False, False], kind="stable"
    )
    high = ranked["feature"].tolist()[:n]
    rest = ranked[~ranked["feature"].isin(high)].sort_values(
        ["score", "active_in_all"], ascending=[True, False], kind="stable"
    )
    low = rest["feature"].tolist()[:n]
    return [HIGH if feature in high else LOW if feature in low else "" for feature in table["feature"].tolist()]


def trends(table: pd.DataFrame, seed: int) -> dict[str, ScoreTrend]:
    """How each measure above chance goes with the score; the number of active tokens is held in the partial one."""
    scores, held = table["score"].to_numpy(float), table["active"].to_numpy(float)
    return {name: score_trend(scores, above_chance(table, name), held, seed) for name in MEASURES}


def above_chance(table: pd.DataFrame, name: str) -> np.ndarray:
    """A measure less its mean under shuffled labels, [G]."""
    return (table[name] - table[f"{name}_chance"]).to_numpy(float)


def trend_table(found: Mapping[str, ScoreTrend]) -> pd.DataFrame:
    """A row per measure: correlations with the score, means of the upper and the lower third, all with intervals."""
    return pd.DataFrame(
        [
            {
                "measure": MEASURES[name],
                "features": trend.n,
                **_columns("correlation", trend.correlation),
                **_columns("partial", trend.partial),
                **_columns("high", trend.high),
                **_columns("low", trend.low),
                **_columns("difference", trend.difference),
            }
            for name, trend in found.items()
        ]
    )


def control_table(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per measure: the mean over features of what active tokens, and their controls, have above chance.

    `beyond_...`: active tokens less the control, of the features that have both. `significant`: share of the features
    whose p is at most .05.
    """
    rows = []
    for name, called in MEASURES.items():
        each = {prefix: above_chance(table, f"{prefix}{name}") for prefix in CONTROLS}
        row: dict[str, object] = {"measure": called, "significant": float((table[f"{name}_p"] <= 0.05).mean())}
        for prefix, values in each.items():
            row |= _columns(f"{prefix or 'active_'}mean", mean(values, seed))
        for prefix in list(CONTROLS)[1:]:
            row |= _columns(f"beyond_{prefix.rstrip('_')}", mean(each[""] - each[prefix], seed))
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
