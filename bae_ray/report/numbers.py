"""How numbers are written in tables, pictures and pages."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

WHISKER = 1.5
"""Values further than so many interquartile ranges from the middle half are outliers, as in a box plot."""


class Limits(NamedTuple):
    """Ends of a colour scale."""

    low: float
    high: float
    beyond: int
    """How many values lie outside, and get the colour of the end."""

    def mark(self, value: float) -> str:
        """An arrow to stand behind a number that lies outside."""
        return " ▲" if value > self.high else " ▼" if value < self.low else ""


def number(value: float, decimals: int | None = None) -> str:
    """A number for readers: 1103, 76.29, 0.003, 1e-07; `decimals` fixes the digits after the point."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.3g}"


def known(value: object, form: str) -> str:
    """The value in this format; a dash where it is not known."""
    return "-" if not isinstance(value, int | float) or math.isnan(value) else format(value, form)


def interval(name: str) -> Callable[[Mapping[Any, Any]], str]:
    """What writes a row's mean with its interval: columns NAME, NAME_low and NAME_high."""

    def written(row: Mapping[Any, Any]) -> str:
        mean, low, high = (known(row[name + end], ".3f") for end in ("", "_low", "_high"))
        return mean if low == "-" else f"{mean} [{low}, {high}]"

    return written


def robust_limits(values: "np.ndarray[Any, Any]") -> Limits:
    """Ends of a colour scale that outliers do not flatten: the whiskers of a box plot of the values, without NaN."""
    known = values[np.isfinite(values)]
    if not known.size:
        return Limits(0.0, 1.0, 0)
    first, third = np.percentile(known, [25, 75])
    reach = WHISKER * (third - first)
    inside = known[(known >= first - reach) & (known <= third + reach)]
    low, high = float(inside.min()), float(inside.max())
    if low == high:  # more than half of them are equal: nothing is left to tell apart inside
        return Limits(float(known.min()), float(known.max()), 0)
    return Limits(low, high, int(known.size - inside.size))
