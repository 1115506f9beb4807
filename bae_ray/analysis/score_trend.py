"""Whether a measure grows with the features' score: rank correlations and differences, with intervals.

Shapes: G features, R replicates.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from bae_ray.analysis.claims import CANNOT_TELL

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

REPLICATES = 2000
COVERAGE = 0.95
FEWEST = 10
"""Smallest number of features for an interval."""


class Estimate(NamedTuple):
    """A number and its 95 % interval (percentile bootstrap over features); NaN if not known."""

    value: float
    low: float
    high: float

    def verdict(self, expected: float = 0.0) -> str:
        """Whether the number is larger than `expected`: agrees, contradicts, or cannot be decided."""
        if math.isnan(self.low):
            return CANNOT_TELL
        return "agrees" if self.low > expected else "contradicts" if self.high < expected else CANNOT_TELL


class ScoreTrend(NamedTuple):
    """How a measure depends on the score of features."""

    n: int
    """Number of features with both numbers."""
    correlation: Estimate
    """Spearman's rank correlation with the score."""
    partial: Estimate
    """The same with the ranks of a third number held constant."""
    high: Estimate
    """Mean of the measure over features in the upper third of the scores."""
    low: Estimate
    """The same over the lower third."""
    difference: Estimate
    """High minus low."""


def score_trend(scores: Floats, values: Floats, held: Floats, seed: int = 0) -> ScoreTrend:
    """The trend of values [G] with scores [G]; `held` [G] is held constant in the partial correlation.

    Thirds end at quantiles of the scores; equal scores stay together. If upper and lower third overlap, their means are
    NaN.
    """
    known = ~np.isnan(scores) & ~np.isnan(values)
    scores, values, held = scores[known], values[known], held[known]
    n = len(scores)
    if n < 2:
        return ScoreTrend(n, *(Estimate(math.nan, math.nan, math.nan) for _ in range(5)))
    rows = np.random.default_rng(seed).integers(0, n, (REPLICATES if n >= FEWEST else 0, n))
    drawn = np.concatenate([np.arange(n)[None], rows])
    with np.errstate(invalid="ignore", divide="ignore"):  # replicates of equal features are NaN, and left out
        correlation = _correlation(*(_ranks(one[drawn]) for one in (scores, values)))
        partial = _partial(*(_ranks(one[drawn]) for one in (scores, values, held)))
        upper, lower = _thirds(scores)
        high, low = (_means(values[drawn], members[drawn]) for members in (upper, lower))
    return ScoreTrend(n, *(_estimate(replicates) for replicates in (correlation, partial, high, low, high - low)))


def mean(values: Floats, seed: int = 0) -> Estimate:
    """The mean of values [G] without NaN, with its interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan)
    rows = np.random.default_rng(seed).integers(0, len(known), (REPLICATES if len(known) >= FEWEST else 0, len(known)))
    return _estimate(np.concatenate([[known.mean()], known[rows].mean(1)]))


def _thirds(scores: Floats) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.quantile(scores, [1 / 3, 2 / 3])
    apart = scores.min() < scores.max()
    upper = scores >= second if second > scores.min() else scores > second
    lower = scores <= first if first < scores.max() else scores < first
    return upper & ~lower & apart, lower & ~upper & apart


def _ranks(values: Floats) -> Floats:
    """Ranks of each row [R, G], equal values sharing their mean, centred and of length 1."""
    from scipy.stats import rankdata

    centred = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def _correlation(a: Floats, b: Floats) -> Floats:
    return (a * b).sum(1)


def _partial(a: Floats, b: Floats, held: Floats) -> Floats:
    ab, ah, bh = _correlation(a, b), _correlation(a, held), _correlation(b, held)
    found = (ab - ah * bh) / np.sqrt((1 - ah**2) * (1 - bh**2))
    return np.where(np.isnan(held).any(1), ab, found)  # a constant holds nothing


def _means(values: Floats, members: np.ndarray) -> Floats:
    return np.where(members, values, 0).sum(1) / members.sum(1)


def _estimate(replicates: Floats) -> Estimate:
    """Of the sample itself, in the first place, and its bootstrap replicates."""
    value, known = float(replicates[0]), replicates[1:][~np.isnan(replicates[1:])]
    if math.isnan(value) or not len(known):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value, float(low), float(high))
