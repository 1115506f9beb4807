"""Bits of a family of codes at a given distortion."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Reached(NamedTuple):
    """One code of a family."""

    bits: float
    """NaN if there is no code."""
    fvu: float
    """Its FVU, which may be above the requested one."""


NEAR = 0.01
"""The first code within this distance of the lowest FVU counts as having it: more bits would gain almost nothing."""
SHARE = 0.1
"""Or within this share of the FVU, if less: at an FVU of .003, an FVU of .01 is different."""
NONE = Reached(math.nan, math.nan)
"""There is no such code."""


def first_at(codes: Sequence[Reached], fvu: float) -> Reached:
    """The first of the codes, from few bits to many, with this FVU or less, or else with the lowest FVU."""
    known = [code for code in codes if not math.isnan(code.fvu)]
    lowest = min((code.fvu for code in known), default=math.nan)
    near = min(NEAR, SHARE * max(fvu, lowest))
    return next((code for code in known if code.fvu <= max(fvu, lowest + near)), NONE)
