"""Comparing trends in results with the claims of the paper."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CLEAR = 0.5
"""A mean rank correlation of at least this size counts as a trend."""


class Trend(NamedTuple):
    """How a value rises or falls over a column, with all else equal."""

    correlation: float
    """Spearman's rank correlation, mean over the groups; NaN where none has three different values."""
    groups: int
    lowest: float
    """Smallest correlation of a group."""
    highest: float

    def verdict(self, expected: Literal["rises", "falls"]) -> str:
        """Whether the trend is as expected, in a word."""
        signed = self.correlation if expected == "rises" else -self.correlation
        if np.isnan(signed):
            return "cannot be told"
        return "agrees" if signed >= CLEAR else "contradicts" if signed <= -CLEAR else "unclear"


def trend(table: pd.DataFrame, over: str, within: Sequence[str], value: str = "entropy_bits") -> Trend:
    """The trend of `value` over a column, in each group of rows that are equal in the columns `within`.

    Rows of a group that share the place in `over`, such as seeds, are averaged; missing values are left out.
    """
    correlations: list[float] = []
    for _, group in table.dropna(subset=[value]).groupby(list(within), sort=False):
        means = group.groupby(over)[value].mean()
        if len(means) >= 3 and means.nunique() > 1:
            ranks = [stats.rankdata(values) for values in (means.index, means)]
            correlations.append(float(np.corrcoef(*ranks)[0, 1]))
    if not correlations:
        return Trend(float("nan"), 0, float("nan"), float("nan"))
    return Trend(float(np.mean(correlations)), len(correlations), min(correlations), max(correlations))


def last_share(table: pd.DataFrame, over: str, within: Sequence[str], value: str = "entropy_bits") -> float:
    """The share of the last step of `over` in the whole rise of `value`, mean over groups that rise; NaN without any.

    Near 0 the value has saturated; near one over the number of steps it still rises evenly.
    """
    shares: list[float] = []
    for _, group in table.dropna(subset=[value]).groupby(list(within), sort=False):
        means = group.groupby(over)[value].mean().sort_index()
        if len(means) >= 3 and means.iloc[-1] > means.iloc[0]:
            shares.append(float((means.iloc[-1] - means.iloc[-2]) / (means.iloc[-1] - means.iloc[0])))
    return float(np.mean(shares)) if shares else float("nan")


def claim(
    paper: str, found: Trend, expected: Literal["rises", "falls"], what: str, table: pd.DataFrame, measure: str = "bits"
) -> str:
    """One line with the paper's claim, the result here, and the sample."""
    rho = f"{found.correlation:+.2f} (mean of {found.groups} groups, {found.lowest:+.2f} to {found.highest:+.2f}"
    return (
        f"Paper: {paper}. Here: {found.verdict(expected)}; rank correlation of {measure} with {what} {rho}; "
        f"{sample(table)})."
    )


def sample(table: pd.DataFrame) -> str:
    """Numbers of samples and seeds of rows of `results` or of accuracies."""
    n = table["n"] if "n" in table else table["n_train"] + table["n_val"]
    return f"n = {_listed(n)}, seeds {_listed(table['seed'])}"


def _listed(column: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(column.unique()))
