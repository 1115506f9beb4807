"""The best m features of a method: sorted scores and their running mean (the paper's Table 4, Fig. 24-28).

A method with many features has room to drop its worst ones, so methods are compared at equal numbers of features too.
Where only a random sample of a method's features was scored, it stands for all of them.

Shapes: S features scored, B replicates.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

REPLICATES = 2000
COVERAGE = 0.95
SCORES_AT_ONCE = 1 << 22

Floats = NDArray[np.float64]


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
