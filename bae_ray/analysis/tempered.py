"""How far below its estimate a joint entropy may lie, with the error taken at that lower end.

Nearly equal frequencies have nearly equal surprisals, so their entropy looks more certain than it is: near its maximum
it changes with the square of the frequencies' errors. So, as in Wilson's interval of a proportion (1927), the error is
taken at the end itself, along powers of the frequencies: for each entropy these are the likeliest frequencies.

Shapes: K distinct codes.
"""

import math

import numpy as np

LARGEST_POWER = 1e4
"""At this power almost only the most frequent code is left, unless frequencies are equal up to rounding."""
STEP = 1.005


def drop(frequencies: np.ndarray, variances: float, further: float) -> float:
    """Bits by which the entropy of the frequencies [K] may fall before it differs from the estimate by its error.

    The error is the root of the variance of the surprisals there, times `variances`, plus `further`, both in units in
    which the interval reaches as far as the root. Of equal frequencies, whose powers are equal, 0.
    """
    power, fallen, first = 1.0, 0.0, None
    while power < LARGEST_POWER:
        weights = (frequencies / frequencies.max()) ** power
        weights /= weights.sum()
        surprisals = -np.log2(np.maximum(weights, np.finfo(weights.dtype).tiny))
        entropy = float(weights @ surprisals)
        first = entropy if first is None else first
        fallen = first - entropy
        if fallen > math.sqrt(variances * max(float(weights @ surprisals**2) - entropy**2, 0.0) + further):
            break
        power *= STEP
    return fallen
