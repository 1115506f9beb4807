"""How far below an estimate a joint entropy may lie, from the error that there would be at that lower end.

Nearly equal frequencies have nearly equal surprisals, so their entropy looks far surer than it is: an entropy near the
largest one moves with the square of the frequencies' errors. As in Wilson's interval of a share (1927) the error is
therefore taken at the end itself, along the frequencies' powers, which have the likeliest of the codes of each entropy.

Shapes: K distinct codes.
"""

import math

import numpy as np

LARGEST_POWER = 1e4
"""There next to nothing is left but the most frequent code, unless frequencies are equal but for rounding."""
STEP = 1.005


def drop(frequencies: np.ndarray, variances: float, further: float) -> float:
    """Bits by which the entropy of the frequencies [K] falls until it is no longer within its error of theirs.

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
