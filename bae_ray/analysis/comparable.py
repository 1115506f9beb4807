"""Whether the bits of several cells can be compared."""

from collections.abc import Sequence

import pandas as pd

LIKE_FACTOR = 1.5
"""Held-out FVUs of compared cells are similar if the largest is at most this many times the smallest,"""
LIKE_DIFFERENCE = 0.02
"""or at most this much above it."""
UNEXPLAINED = 0.9
"""At this held-out FVU or above, a code does not describe its cell. (The cell's mean alone has an FVU of 1.)"""


def hindrance(groups: Sequence[pd.DataFrame], over: str, like_fvu: bool = True) -> str:
    """Why groups of rows of `results` cannot be compared over a column, in a few words; empty where they can.

    They need similar held-out FVUs (if `like_fvu`) and converged trainings. A table without these columns is not from
    trainings and passes.
    """
    reasons = [_unlike(groups, over) if like_fvu and "fvu_val" in groups[0] else "", _unconverged(pd.concat(groups))]
    return "; ".join(filter(None, reasons))


def _unlike(groups: Sequence[pd.DataFrame], over: str) -> str:
    ends = [(float(means.min()), float(means.max())) for group in groups if len(means := _fvu(group, over))]
    low, high = max(ends, key=lambda both: (both[1] >= UNEXPLAINED, both[1] / max(both[0], 1e-12)), default=(0.0, 0.0))
    if high >= UNEXPLAINED:
        return f"held-out FVU is up to {high:.2f}: such a code does not describe its cell"
    unlike = [(one, other) for one, other in ends if other > LIKE_FACTOR * one and other - one > LIKE_DIFFERENCE]
    if not unlike:
        return ""
    low, high = max(unlike, key=lambda both: both[1] / max(both[0], 1e-12))
    return f"held-out FVU is {low:.2f} to {high:.2f}: bits can be compared at like FVU only"


def _fvu(group: pd.DataFrame, over: str) -> pd.Series:
    return group.groupby(over)["fvu_val"].mean()


def _unconverged(runs: pd.DataFrame) -> str:
    if "converged" not in runs:
        return ""
    unknown, not_yet = runs["converged"].isna().sum(), (runs["converged"].eq(False)).sum()
    if not_yet:
        return f"{not_yet} of {len(runs)} trainings did not converge"
    return f"it is not known whether {unknown} of {len(runs)} trainings converged" if unknown else ""
