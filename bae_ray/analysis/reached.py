"""What a family of codes takes at a given distortion."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Reached(NamedTuple):
    """One code of a family."""

    bits: float
    """NaN where there is none."""
    fvu: float
    """What it leaves unexplained, which may be above what was asked for."""


NEAR = 0.01
"""The first code within this of the lowest FVU of all counts as having it: more bits would gain next to nothing."""
SHARE = 0.1
"""Or within so large a part of the FVU, where that is less: at an FVU of .003, one of .01 is another one."""
NONE = Reached(math.nan, math.nan)
"""There is no such code."""


def first_at(codes: Sequence[Reached], fvu: float) -> Reached:
    """The first of the codes, from few bits to many, with this FVU, or with the lowest where that is above it."""
    known = [code for code in codes if not math.isnan(code.fvu)]
    lowest = min((code.fvu for code in known), default=math.nan)
    near = min(NEAR, SHARE * max(fvu, lowest))
    return next((code for code in known if code.fvu <= max(fvu, lowest + near)), NONE)
