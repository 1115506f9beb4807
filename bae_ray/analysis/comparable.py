"""Whether bits of several cells can be compared at all."""

from collections.abc import Sequence

import pandas as pd

LIKE_FACTOR = 1.5
"""Held-out FVU of cells that are compared: the largest is at most so many times the smallest,"""
LIKE_DIFFERENCE = 0.02
"""or at most so much above it."""
UNEXPLAINED = 0.9
"""From this held-out FVU on, a code does not describe its cell: its mean alone has an FVU of 1."""


def hindrance(groups: Sequence[pd.DataFrame], over: str, like_fvu: bool = True) -> str:
    """Why groups of rows of `results` cannot be compared over a column, in a few words; empty where they can.

    Each is to have like held-out FVU (if `like_fvu`), and trainings that converged. Tables that do not tell of these
    are not of trainings.
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
