"""Comparing trends in results with the paper's claims.

Results agree with a claim if a permutation test at 5 % says so: random orders would seldom show the trend. The rows
must also be comparable (`comparable.py`).
"""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from bae_ray.analysis.comparable import hindrance

LEVEL = 0.05
"""Level of the permutation test: largest share of random orders that may seem to confirm a claim."""
MOST_EXACT = 7
"""Up to this many places all orders are tried; with more places, DRAWS random orders."""
DRAWS = 10_000

CANNOT_TELL = "cannot be told"


class Trend(NamedTuple):
    """How a value rises or falls over a column, all else equal."""

    correlation: float
    """Spearman's rank correlation, mean over the groups; NaN if no group has three different values."""
    groups: int
    lowest: float
    """Smallest correlation of a group."""
    highest: float
    p_rises: float = 1.0
    """Share of all orders of the places in which the correlation is at least as large as here. All groups are permuted
    together: they share their places, so what is special about a place is in all of them, and several groups say no
    more about the order than one. Three places have only six orders: too few for any trend."""
    p_falls: float = 1.0
    """The same for correlations at most as large."""
    hindrance: str = ""
    """Why the values cannot be compared, or why there is nothing to compare; empty if they can."""

    def verdict(self, expected: Literal["rises", "falls"]) -> str:
        """Whether the trend is as expected: agrees, contradicts, or cannot be decided."""
        if math.isnan(self.correlation) or self.hindrance:
            return CANNOT_TELL
        agrees, contradicts = (self.p_rises, self.p_falls) if expected == "rises" else (self.p_falls, self.p_rises)
        return "agrees" if agrees <= LEVEL else "contradicts" if contradicts <= LEVEL else CANNOT_TELL

    def told(self, expected: Literal["rises", "falls"]) -> str:
        """The verdict, or what prevents one."""
        return f"{self.verdict(expected)} ({self.hindrance})" if self.hindrance else self.verdict(expected)


def trend(
    table: pd.DataFrame, over: str, within: Sequence[str], value: str = "entropy_bits", like_fvu: bool = True
) -> Trend:
    """The trend of `value` over a column, in each group of rows that are equal in the columns `within`.

    Rows of a group with the same place in `over`, such as seeds, are averaged; missing values are skipped. `like_fvu`:
    the values, as bits, are comparable only at similar held-out FVU.
    """
    places = sorted(table[over].unique().tolist())
    found: list[tuple[list[int], np.ndarray]] = []
    compared: list[pd.DataFrame] = []
    for _, group in table.dropna(subset=[value]).groupby(list(within), sort=False):
        means = group.groupby(over)[value].mean()
        if len(means) >= 3 and means.nunique() > 1:
            found.append(([places.index(place) for place in means.index], _unit(stats.rankdata(means))))
            compared.append(group)
    if not found:
        return Trend(math.nan, 0, math.nan, math.nan, hindrance=_nothing(table.dropna(subset=[value]), over, within))
    each = [float(_correlations(np.arange(len(places))[None], *group)[0]) for group in found]
    orders = _orders(len(places))
    shuffled = np.mean([_correlations(orders, *group) for group in found], axis=0)
    mean = float(np.mean(each))
    return Trend(
        mean, len(each), min(each), max(each),
        p_rises=float(np.mean(shuffled >= mean - 1e-9)), p_falls=float(np.mean(shuffled <= mean + 1e-9)),
        hindrance=hindrance(compared, over, like_fvu),
    )  # fmt: skip


def _nothing(table: pd.DataFrame, over: str, within: Sequence[str]) -> str:
    """Why no group of rows has a trend."""
    if len(table) and table.groupby(list(within))[over].nunique().max() >= 3:
        return f"the values are the same at each {over}"
    places = f"{over}s" if over in ("layer", "position") else f"values of {over}"
    return f"no {within[0]} has runs at three {places}"


def _orders(n: int) -> np.ndarray:
    """Orders of n places, [orders, n]; the first is the one that they have."""
    if n <= MOST_EXACT:
        return np.array(list(permutations(range(n))))
    generator = np.random.default_rng(0)
    return np.array([np.arange(n), *(generator.permutation(n) for _ in range(DRAWS))])


def _correlations(orders: np.ndarray, places: list[int], ranks: np.ndarray) -> np.ndarray:
    """Rank correlation of a group's values, of centred `ranks`, with its places in each order."""
    shuffled = orders[:, places].argsort(1).argsort(1)
    return _unit(shuffled.astype(float)) @ ranks


def _unit(values: np.ndarray) -> np.ndarray:
    """Centred and of length 1, along the last axis."""
    centred = values - values.mean(-1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=-1, keepdims=True)


def last_share(table: pd.DataFrame, over: str, within: Sequence[str], value: str = "entropy_bits") -> float:
    """The share of the last step of `over` in the whole rise of `value`, mean over rising groups; NaN if none rises.

    Near 0: the value has saturated. Near 1 / (number of steps): it still rises evenly.
    """
    shares: list[float] = []
    for _, group in table.dropna(subset=[value]).groupby(list(within), sort=False):
        means = group.groupby(over)[value].mean().sort_index()
        if len(means) >= 3 and means.iloc[-1] > means.iloc[0]:
            shares.append(float((means.iloc[-1] - means.iloc[-2]) / (means.iloc[-1] - means.iloc[0])))
    return float(np.mean(shares)) if shares else float("nan")


def saturation(along: Trend, share: float, even: float) -> str:
    """Whether what rises saturates, in the words of `Trend.verdict` or "unclear".

    It does where the last step makes less than half of an even rise (`even`, like `share` of the whole rise), and does
    not where it makes as much. Of what is not known to rise it cannot be told.
    """
    if along.verdict("rises") != "agrees" or math.isnan(share):
        return CANNOT_TELL
    return "agrees" if share < even / 2 else "contradicts" if share >= even else "unclear"


def saturation_claim(along: Trend, share: float, over: str, steps: int, table: pd.DataFrame) -> str:
    """One line with the paper's claim that what rises along `over`, in so many steps, saturates, and the result."""
    told = saturation(along, share, 1 / steps)
    if told == CANNOT_TELL:
        why = {
            CANNOT_TELL: f"whether it rises {CANNOT_TELL}",
            "contradicts": "it falls",
            "agrees": "nowhere does it end above where it begins",
        }
        told = f"{told} ({along.hindrance or why[along.verdict('rises')]})"
    if math.isnan(share):
        return f"Paper: and saturates. Here: {told}; {sample(table)}."
    return (
        f"Paper: and saturates. Here: {told}; the last step of {over} makes {share:.0%} of the whole rise "
        f"(an even rise over {steps} steps: {1 / steps:.0%}; {sample(table)})."
    )


def claim(
    paper: str, found: Trend, expected: Literal["rises", "falls"], what: str, table: pd.DataFrame, measure: str = "bits"
) -> str:
    """One line with the paper's claim, the result here, and the sample."""
    if not found.groups:
        return f"Paper: {paper}. Here: {found.told(expected)}; {sample(table)}."
    rho = f"{found.correlation:+.2f} (mean of {found.groups} groups, {found.lowest:+.2f} to {found.highest:+.2f}"
    return (
        f"Paper: {paper}. Here: {found.told(expected)}; rank correlation of {measure} with {what} {rho}; "
        f"{sample(table)})."
    )


def first_of(methods: int) -> str:
    """A remark on one of several methods being first in one comparison: how often this happens by chance."""
    return "agrees" if 1 / methods <= LEVEL else f"{CANNOT_TELL} (so here, and in one of {methods} random orders)"


def sample(table: pd.DataFrame) -> str:
    """Numbers of samples and seeds of rows of `results` or of accuracies."""
    n = table["n"] if "n" in table else table["n_train"] + table["n_val"]
    return f"n = {_listed(n)}, seeds {_listed(table['seed'])}"


def _listed(column: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(column.unique()))
